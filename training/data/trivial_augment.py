"""TrivialAugment for batches of uint8: one random operation of random strength on each image.

Müller and Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", ICCV 2021
(https://arxiv.org/abs/2103.10158), with the operations and the wide range of strengths of its table 1. torchvision's
class does the same to an image at a time, or one operation to a whole batch. Knows nothing about networks; all
randomness comes from a CPU generator, on whichever device the images are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, grid_sample, pad

Operation = Callable[[Tensor, Tensor], Tensor]
"""float32 [N, C, H, W] from 0 to 255 and strengths, [N, 1, 1, 1] from -1 to 1 -> the same shape, not yet clipped."""

_SHEAR = 0.99
_SHIFT = 1.0  # of the side; 32 pixels of 32
_DEGREES = 135.0
_BLEND = 0.99


@dataclass(frozen=True)
class TrivialAugment:
    """One of fourteen operations on each image, all equally likely, each at a strength from none to its strongest."""

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        choice = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
        strengths = 2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1
        for place, operation in enumerate(OPERATIONS.values()):
            chosen = (choice == place).nonzero().flatten()
            if len(chosen):
                theirs = strengths.index_select(0, chosen).to(images.device)
                chosen = chosen.to(images.device)
                changed = operation(images.index_select(0, chosen).float(), theirs)
                images = images.index_copy(0, chosen, changed.clamp(0, 255).round().to(torch.uint8))
        return images


def _identity(images: Tensor, strength: Tensor) -> Tensor:
    del strength
    return images


def _warp(images: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Sample each image at an affine function of its own places; black beyond its borders."""
    n, _, height, width = images.shape
    zeros = torch.zeros(n, device=images.device)
    matrix = torch.stack([torch.stack([zeros + part for part in row], 1) for row in rows], 1)  # [N, 2, 3]
    x, y = ((torch.arange(side, device=images.device) + 0.5) * 2 / side - 1 for side in (width, height))
    x, y = x.expand(height, width), y.view(-1, 1).expand(height, width)
    places = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    grid = (matrix @ places).view(n, 2, height, width).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="nearest", align_corners=False)


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, [[1.0, _SHEAR * strength.flatten(), 0.0], [0.0, 1.0, 0.0]])


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, [[1.0, 0.0, 0.0], [_SHEAR * strength.flatten(), 1.0, 0.0]])


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, [[1.0, 0.0, 2 * _SHIFT * strength.flatten()], [0.0, 1.0, 0.0]])


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, [[1.0, 0.0, 0.0], [0.0, 1.0, 2 * _SHIFT * strength.flatten()]])


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle = math.radians(_DEGREES) * strength.flatten()
    return _warp(images, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return images * (1 + _BLEND * strength)


def _colour(images: Tensor, strength: Tensor) -> Tensor:
    return _away_from(_grey(images), images, strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _away_from(_grey(images).mean((2, 3), keepdim=True), images, strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]], device=images.device) / 13
    planes = pad(images.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    return _away_from(conv2d(planes, kernel.view(1, 1, 3, 3)).view(images.shape), images, strength)


def _posterise(images: Tensor, strength: Tensor) -> Tensor:
    step = 2.0 ** (6 * strength.abs()).round()  # 8 bits down to 2
    return (images / step).floor() * step


def _solarise(images: Tensor, strength: Tensor) -> Tensor:
    return torch.where(images >= 255 * (1 - strength.abs()), 255 - images, images)


def _auto_contrast(images: Tensor, strength: Tensor) -> Tensor:
    del strength
    darkest, lightest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = lightest - darkest
    return torch.where(spread > 0, (images - darkest) * (255 / spread.clamp_min(1)), images)


def _equalise(images: Tensor, strength: Tensor) -> Tensor:
    """Give each channel as many pixels of one level as of another, as far as that goes."""
    del strength
    levels = images.flatten(2).long()  # [N, C, H * W]
    counts = torch.zeros(*levels.shape[:2], 256, device=images.device)
    below = counts.scatter_add(2, levels, torch.ones_like(images).flatten(2)).cumsum(2)
    darkest = below.gather(2, levels.amin(2, keepdim=True))  # pixels of the darkest level
    share = (below - darkest) / (levels.shape[2] - darkest).clamp_min(1)
    return (255 * share.gather(2, levels)).view(images.shape)


def _grey(images: Tensor) -> Tensor:  # [N, 1 or 3, H, W] -> [N, 1, H, W]
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _away_from(plain: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Return images between `plain` at -1, themselves at 0, and as far beyond at 1."""
    return plain + (1 + _BLEND * strength) * (images - plain)


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterise": _posterise,
    "solarise": _solarise,
    "auto contrast": _auto_contrast,
    "equalise": _equalise,
}
