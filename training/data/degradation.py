"""Random degradations of training images, which teach a network what a poor picture of a thing looks like.

They resemble some of the corruptions that published models are measured on (`corruptions`), but share no code and no
tables with them. Knows nothing about networks; all randomness comes from a CPU generator, wherever the images are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, interpolate, pad


@dataclass(frozen=True)
class Noise:
    """Noise of a random strength: on every pixel, in proportion to its light, or black and white specks on a few."""

    deviation: float  # at most, of 1 from black to white
    share: float  # of the pixels that are made black or white, at most

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        n = len(images)
        kind = torch.randint(3, (n, 1, 1, 1), generator=generator)
        strength = torch.rand(n, 1, 1, 1, generator=generator)
        noise = torch.randn(images.shape, generator=generator) * strength * self.deviation
        chance = torch.rand(images.shape, generator=generator)
        hit = (kind == 2) & (chance < strength * self.share)
        white = (chance < strength * self.share / 2).float()
        kind, noise, hit, white = (part.to(images.device) for part in (kind, noise, hit, white))
        levels = images.float() / 255
        levels = levels + noise * torch.where(kind == 0, 1.0, torch.where(kind == 1, levels.sqrt(), 0.0))
        return _to_uint8(torch.where(hit, white, levels))


@dataclass(frozen=True)
class Light:
    """Less contrast and more light: every pixel times a random number, plus another one."""

    faintest: float  # times, at least
    lightest: float  # of 1, added at most

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        chance = torch.rand(2, len(images), 1, 1, 1, generator=generator).to(images.device)
        # Evenly over powers: half of the contrast is lost as often as half of what is left.
        kept = self.faintest ** chance[0]
        return _to_uint8(images.float() / 255 * kept + self.lightest * chance[1])


@dataclass(frozen=True)
class Haze:
    """Smooth, random light in front of each image, up to `thickest` times as strong as the image."""

    thickest: float

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        n, _, height, width = images.shape
        light = torch.zeros(n, 1, height, width, device=images.device)
        fades = torch.rand(n, 1, 1, 1, generator=generator)
        for octave in range(4):  # clouds: each half as large as the one before, and fainter
            side = min(2 + 2**octave, height, width)
            knots = torch.rand(n, 1, side, side, generator=generator) * (0.4 + 0.5 * fades) ** octave
            light += interpolate(knots.to(images.device), size=(height, width), mode="bilinear", align_corners=True)
        darkest, lightest = light.amin((2, 3), keepdim=True), light.amax((2, 3), keepdim=True)
        light = (light - darkest) / (lightest - darkest).clamp_min(1e-6)
        thickness = self.thickest * torch.rand(n, 1, 1, 1, generator=generator).to(images.device)
        return _to_uint8((images.float() / 255 + thickness * light) / (1 + thickness))


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur of a random width, the same for all images of a batch."""

    widest: float  # standard deviation in pixels

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        sigma = self.widest * (0.2 + 0.8 * torch.rand((), generator=generator))
        reach = math.ceil(2.5 * self.widest)
        line = (-0.5 * (torch.arange(-reach, reach + 1) / sigma).square()).exp()
        line = (line / line.sum()).to(images.device)
        planes = images.float().flatten(0, 1).unsqueeze(1)
        planes = conv2d(pad(planes, (reach, reach, 0, 0), mode="replicate"), line.view(1, 1, 1, -1))
        planes = conv2d(pad(planes, (0, 0, reach, reach), mode="replicate"), line.view(1, 1, -1, 1))
        return _to_uint8(planes.view(images.shape) / 255)


@dataclass(frozen=True)
class Scatter:
    """Each pixel is taken from a random place up to `pixels` away, as through wavy glass."""

    pixels: float

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        n, channels, height, width = images.shape
        far = self.pixels * torch.rand(n, 1, 1, 1, generator=generator)
        away = (far * (2 * torch.rand(n, 2, height, width, generator=generator) - 1)).round().long()
        rows = (torch.arange(height).view(-1, 1) + away[:, 0]).clamp(0, height - 1)
        columns = (torch.arange(width) + away[:, 1]).clamp(0, width - 1)
        places = (rows * width + columns).view(n, 1, -1).expand(-1, channels, -1).to(images.device)
        return images.flatten(2).gather(2, places).view(images.shape)


def _to_uint8(levels: Tensor) -> Tensor:  # float32 from 0 to 1
    return (levels.clamp(0, 1) * 255).round().to(torch.uint8)
