"""Corrupted copies of images as tensor arithmetic: noise, blur, weather, light and compression at five severities.

Kinds and strengths are those of CIFAR-10-C: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019 (https://arxiv.org/abs/1903.12261). Frost is left out, because it needs
photographs of ice. Noise, weather and light of digits are as strong as MNIST-C's code makes them: Mu and Gilmer,
"MNIST-C: a robustness benchmark for computer vision", 2019 (https://arxiv.org/abs/1906.02337). Chance and some
interpolations are not theirs, so that figures compare with figures measured here alone.

Knows nothing about networks; all randomness comes from a CPU generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from service.contract.manifest import Style
from training.data import jpeg

SEVERITIES = (1, 2, 3, 4, 5)

SOURCE = "those of CIFAR-10-C but frost; the noise, weather and light of digits as strong as in MNIST-C"

Corrupt = Callable[[Tensor, tuple[float, ...], Generator], Tensor]
"""float32 [N, C, H, W] from 0 to 1, what a severity means, and a generator -> the same shape, not yet clipped."""


def corrupted(images: Tensor, kind: str, severity: int, *, style: Style = "photo", seed: int = 0) -> Tensor:
    """Return a copy of uint8 [N, C, H, W] `images` corrupted at `severity`, 1 to 5; the same copy for the same seed."""
    corrupt, numbers = _KINDS[kind]
    numbers = _OF_INK.get(kind, numbers) if style == "mnist" else numbers
    generator = Generator().manual_seed(1_000 * seed + len(SEVERITIES) * list(_KINDS).index(kind) + severity)
    changed = corrupt(images.float() / 255, numbers[severity - 1], generator)
    return (changed.clamp(0, 1) * 255).round().to(torch.uint8)


def kinds_for(images: Tensor) -> tuple[str, ...]:
    """Return the sixteen kinds for images of this many channels: grey ones have no colour to saturate."""
    left_out = "saturate" if images.shape[1] == 1 else "gaussian blur"
    return tuple(kind for kind in _KINDS if kind != left_out)


# Noise


def _gaussian_noise(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    (deviation,) = numbers
    return images + deviation * _normal(images, generator)


def _shot_noise(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    (photons,) = numbers
    return torch.poisson(images.cpu() * photons, generator).to(images.device) / photons


def _impulse_noise(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    (share,) = numbers
    chance = torch.rand(images.shape, generator=generator).to(images.device)
    return torch.where(chance < share, (chance < share / 2).float(), images)


def _speckle_noise(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    (deviation,) = numbers
    return images * (1 + deviation * _normal(images, generator))


# Blur


def _gaussian_blur(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    del generator
    (sigma,) = numbers
    return _smooth(images, sigma)


def _defocus_blur(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Convolve with a disk whose rim is smoothed, as a lens out of focus does."""
    del generator
    radius, rim = numbers
    places = torch.arange(-3.0, 4.0)
    disk = (places.square() + places.square().view(-1, 1) <= radius**2).float()
    disk = _smooth((disk / disk.sum()).view(1, 1, 7, 7), rim, reach=1)
    return _convolve(images, disk.view(7, 7).to(images.device))


def _glass_blur(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Swap each pixel with a neighbour above or to the left, one after the other, between two slight blurs."""
    sigma, rounds = numbers
    n, channels, height, width = images.shape
    pixels = _smooth(images, sigma).flatten(2).permute(2, 0, 1).contiguous()  # [H * W, N, C]
    steps = torch.randint(0, 2, (int(rounds), height, width, n, 2), generator=generator).to(images.device)
    examples = torch.arange(n, device=images.device)
    for step in steps:
        others = step[..., 0] * width + step[..., 1]
        for row in range(height - 1, 1, -1):
            for column in range(width - 1, 1, -1):
                place = row * width + column
                other = place - others[row, column]
                here, there = pixels[place].clone(), pixels[other, examples]
                pixels[place] = there
                pixels[other, examples] = here
    return _smooth(pixels.permute(1, 2, 0).reshape(n, channels, height, width), sigma)


def _motion_blur(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    radius, sigma = numbers
    return _move(images, int(radius), sigma, degrees=(-45, 45), generator=generator)


def _zoom_blur(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    del generator
    (steps,) = numbers
    factors = [1 + step / 100 for step in range(int(steps))]
    zoomed = torch.stack([_zoom(images, factor) for factor in factors]).sum(0)
    return (images + zoomed) / (len(factors) + 1)


# Weather


def _snow(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Paint moving flakes on whitened images."""
    mean, deviation, zoom, least, radius, sigma, kept = numbers
    flakes = _zoom(mean + deviation * _normal(images[:, :1], generator), zoom)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    flakes = _move(flakes, int(radius), sigma, degrees=(-135, -45), generator=generator)
    whitened = torch.maximum(images, 1.5 * _brightness_of(images) + 0.5)
    return kept * images + (1 - kept) * whitened + flakes + flakes.rot90(2, (2, 3))


def _fog(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    thickness, decay = numbers
    n, _, height, width = images.shape
    lightest = images.amax((1, 2, 3), keepdim=True)
    fog = _plasma(n, max(height, width), decay, generator)[:, :, :height, :width].to(images.device)
    return (images + thickness * fog) * lightest / (lightest + thickness)


def _plasma(n: int, side: int, decay: float, generator: Generator) -> Tensor:  # float32 [n, 1, 2^k, 2^k]
    """Return clouds by the diamond-square algorithm on a torus, each from 0 to 1 (Fournier et al., 1982)."""
    size = 1 << max(side - 1, 1).bit_length()
    heights = torch.zeros(n, size, size)
    step, rough = size, 1.0
    while step > 1:
        half = step // 2

        def noise(places: Tensor, rough: float = rough) -> Tensor:
            return rough * (2 * torch.rand(places.shape, generator=generator) - 1)

        corners = heights[:, ::step, ::step]
        across = corners + corners.roll(-1, 2)
        squares = (across + across.roll(-1, 1)) / 4
        squares = squares + noise(squares)
        heights[:, half::step, half::step] = squares
        upper = (corners + corners.roll(-1, 2) + squares + squares.roll(1, 1)) / 4
        heights[:, ::step, half::step] = upper + noise(upper)
        left = (corners + corners.roll(-1, 1) + squares + squares.roll(1, 2)) / 4
        heights[:, half::step, ::step] = left + noise(left)
        step, rough = half, rough / decay**2
    heights -= heights.amin((1, 2), keepdim=True)
    return (heights / heights.amax((1, 2), keepdim=True).clamp_min(1e-6)).unsqueeze(1)


# Light and colour


def _brightness(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Raise the value of each pixel, in terms of hue, saturation and value."""
    del generator
    value = images.amax(1, keepdim=True)
    (more,) = numbers
    raised = (value + more).clamp_max(1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-6)), raised)


def _contrast(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    del generator
    mean = images.mean((2, 3), keepdim=True)
    (kept,) = numbers
    return mean + kept * (images - mean)


def _saturate(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Change the saturation of each pixel; what has no hue counts as red."""
    del generator
    times, more = numbers
    value = images.amax(1, keepdim=True)
    saturation = (value - images.amin(1, keepdim=True)) / value.clamp_min(1e-6)
    changed = (times * saturation + more).clamp(0, 1)
    red = value * torch.tensor([0.0, 1.0, 1.0], device=images.device).view(1, 3, 1, 1)
    away = torch.where(saturation > 0, (value - images) / saturation.clamp_min(1e-6), red)
    return value - away * changed


# Shape and coding


def _elastic(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    """Move three points at random, and bend what lies between by smoothed noise."""
    n, _, height, width = images.shape
    side = float(min(height, width))
    strength, sigma, corner = (side * share for share in numbers)
    reach = side // 3
    points = torch.tensor([[reach, reach, 1.0], [reach, -reach, 1.0], [-reach, -reach, 1.0]])
    moved = points[:, :2] + corner * (2 * torch.rand(n, 3, 2, generator=generator) - 1)
    affine = torch.linalg.solve(torch.cat([moved, torch.ones(n, 3, 1)], 2), points[:, :2].expand(n, 3, 2))
    rows, columns = (torch.arange(length) - length // 2 for length in (height, width))
    y, x = torch.meshgrid(rows.float(), columns.float(), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3) @ affine  # [N, H * W, 2]
    if strength:
        noise = 2 * torch.rand(n, 2, height, width, generator=generator) - 1
        places = places + strength * _smooth(noise, sigma).flatten(2).transpose(1, 2)
    centre = torch.tensor([width // 2, height // 2]) + 0.5
    grid = (places + centre) * 2 / torch.tensor([width, height]) - 1
    grid = grid.view(n, height, width, 2).to(images.device)
    edges = "zeros" if images.shape[1] == 1 else "reflection"
    return grid_sample(images, grid, padding_mode=edges, align_corners=False)


def _pixelate(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    del generator
    (share,) = numbers
    sides = [(length, max(1, int(length * share))) for length in images.shape[2:]]
    (down, across), (up, back) = [_box(*side) for side in sides], [_box(*reversed(side)) for side in sides]
    rows, columns = (up @ down).to(images.device), (back @ across).to(images.device)
    return rows @ (images @ columns.T)


def _jpeg(images: Tensor, numbers: tuple[float, ...], generator: Generator) -> Tensor:
    del generator
    (quality,) = numbers
    qualities = torch.full((len(images),), int(quality), device=images.device)
    return jpeg.compress((images * 255).round().to(torch.uint8), qualities).float() / 255


def _each(*numbers: float) -> tuple[tuple[float, ...], ...]:
    return tuple((number,) for number in numbers)


_KINDS: dict[str, tuple[Corrupt, tuple[tuple[float, ...], ...]]] = {
    "gaussian noise": (_gaussian_noise, _each(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": (_shot_noise, _each(500, 250, 100, 75, 50)),
    "impulse noise": (_impulse_noise, _each(0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle noise": (_speckle_noise, _each(0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian blur": (_gaussian_blur, _each(0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass blur": (_glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom blur": (_zoom_blur, _each(6, 11, 16, 21, 26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, _each(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, _each(0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "elastic": (
        _elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, _each(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, _each(80, 65, 58, 50, 40)),
}
"""What makes a copy, and what each severity means, in pixels where lengths are of images of 32 x 32."""

_OF_INK: dict[str, tuple[tuple[float, ...], ...]] = {
    "gaussian noise": _each(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot noise": _each(60, 25, 12, 5, 3),
    "impulse noise": _each(0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle noise": _each(0.15, 0.2, 0.35, 0.45, 0.6),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
    "jpeg": _each(25, 18, 15, 10, 7),
}
"""What it means for digits, where that has nothing to do with pixels' size: ink on black hardly feels less."""


# What several of them need


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)


def _brightness_of(images: Tensor) -> Tensor:  # [N, 1 or 3, H, W] -> [N, 1, H, W]
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _convolve(images: Tensor, kernel: Tensor) -> Tensor:  # [N, C, H, W], [k, k] -> [N, C, H, W]
    """Convolve each channel; the border's pixels go on beyond it."""
    planes = pad(images.flatten(0, 1).unsqueeze(1), (kernel.shape[0] // 2,) * 4, mode="replicate")
    return conv2d(planes, kernel.view(1, 1, *kernel.shape)).view(images.shape)


def _smooth(images: Tensor, sigma: float, *, reach: int = 0) -> Tensor:
    """Convolve with a Gaussian up to `reach` pixels, by default four deviations."""
    reach = reach or int(4 * sigma + 0.5)
    if not reach:
        return images
    places = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    line = (-0.5 * (places / sigma).square()).exp()
    line = line / line.sum()
    planes = images.flatten(0, 1).unsqueeze(1)
    planes = conv2d(pad(planes, (reach, reach, 0, 0), mode="replicate"), line.view(1, 1, 1, -1))
    planes = conv2d(pad(planes, (0, 0, reach, reach), mode="replicate"), line.view(1, 1, -1, 1))
    return planes.view(images.shape)


def _move(images: Tensor, radius: int, sigma: float, *, degrees: tuple[float, float], generator: Generator) -> Tensor:
    """Blur along a line in one direction of each image's own, most at its start, as a moving camera does."""
    n, channels, height, width = images.shape
    angle = math.radians(1) * (degrees[0] + (degrees[1] - degrees[0]) * torch.rand(n, 1, generator=generator))
    weights = (-0.5 * (torch.arange(2 * radius + 1) / sigma).square()).exp()
    weights = weights[weights > _LEAST_WEIGHT]
    flat, moved = images.flatten(2), torch.zeros_like(images).flatten(2)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        rows = (torch.arange(height) + (step * angle.sin()).round()).clamp(0, height - 1)
        columns = (torch.arange(width) + (step * angle.cos()).round()).clamp(0, width - 1)
        places = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).long().view(n, 1, -1).to(images.device)
        moved += weight * flat.gather(2, places.expand(-1, channels, -1))
    return moved.view(images.shape)


_LEAST_WEIGHT = 1e-3


def _zoom(images: Tensor, factor: float) -> Tensor:
    """Return the middle of the images, enlarged to their size."""
    rows, columns = (_enlarging(side, factor).to(images.device) for side in images.shape[2:])
    return rows @ (images @ columns.T)


def _enlarging(length: int, factor: float) -> Tensor:  # float32 [length, length]
    """Return the matrix that enlarges the middle of a line, linearly between its pixels."""
    kept = math.ceil(length / factor)
    places = torch.arange(length) - (length - 1) / 2
    places = (places * (kept - 1) / (round(kept * factor) - 1) + (length - 1) / 2).clamp(0, length - 1)
    return (1 - (places.view(-1, 1) - torch.arange(length)).abs()).clamp_min(0)


def _box(length: int, other: int) -> Tensor:  # float32 [other, length]
    """Return the matrix that resizes a line: the mean of what each new pixel covers, or the nearest one."""
    scale = length / other
    centres = (torch.arange(other) + 0.5).view(-1, 1) * scale
    distance = (torch.arange(length) + 0.5 - centres) / max(scale, 1.0)
    covered = ((distance > -0.5) & (distance <= 0.5)).float()
    return covered / covered.sum(1, keepdim=True)
