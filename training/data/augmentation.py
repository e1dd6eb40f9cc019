"""Random variations of training images, in batches of uint8: shift, mirror, bend, compress.

Knows nothing about networks. All randomness comes from a CPU generator, on whichever device the images are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from training.data import jpeg
from training.data.degradation import Blur, Scatter

Images = Callable[[Tensor, Generator], Tensor]


class Augmentation(Protocol):
    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        """Return varied `images`, uint8 [N, C, H, W]; `examples`, int64 [N], are their places in the dataset."""
        ...


@dataclass(frozen=True)
class Chain:
    """Several augmentations, applied in order."""

    links: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        for link in self.links:
            images = link(images, examples=examples, epoch=epoch, generator=generator)
        return images


@dataclass(frozen=True)
class OneOf:
    """One of several augmentations, by chance, for a share of the images; the others stay as they are."""

    choices: tuple[Augmentation, ...]
    share: float

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        varied = torch.rand(len(images), generator=generator) < self.share
        choice = torch.randint(len(self.choices), (len(images),), generator=generator)
        for place, augmentation in enumerate(self.choices):
            chosen = (varied & (choice == place)).nonzero().flatten().to(images.device)
            if len(chosen):
                theirs = images.index_select(0, chosen), examples.index_select(0, chosen.to(examples.device))
                changed = augmentation(theirs[0], examples=theirs[1], epoch=epoch, generator=generator)
                images = images.index_copy(0, chosen, changed)
        return images


@dataclass(frozen=True)
class InTurn:
    """One augmentation up to and including an epoch, another one afterwards."""

    first: Augmentation
    until: int  # the last epoch of `first`, counted from 1
    then: Augmentation

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        chosen = self.first if epoch <= self.until else self.then
        return chosen(images, examples=examples, epoch=epoch, generator=generator)


@dataclass(frozen=True)
class AlternatingFlip:
    """A mirror for half of the images in odd epochs and for the other half in even ones.

    A pair of epochs shows both views of every image; independent flips show one of them twice to half of the images.
    From airbench, https://arxiv.org/abs/2404.00498.
    """

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del generator
        # Multiplied by 2^32 / golden ratio, neighbours differ in the high bits: a coin for each example, without state.
        coins = (examples * 2_654_435_761 >> 16) + epoch
        return torch.where((coins % 2 == 0).view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True)
class Translate:
    """A random shift of each image by up to `pixels` in both directions, with reflected borders."""

    pixels: int

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        n, channels, height, width = images.shape
        down, right = torch.randint(0, 2 * self.pixels + 1, (2, n, 1), generator=generator).to(images.device)
        padded = pad(images.float(), (self.pixels,) * 4, mode="reflect").to(torch.uint8)
        rows = (down + torch.arange(height, device=images.device)).view(n, 1, height, 1)
        columns = (right + torch.arange(width, device=images.device)).view(n, 1, 1, width)
        picked = padded.gather(2, rows.expand(-1, channels, -1, padded.shape[3]))
        return picked.gather(3, columns.expand(-1, channels, height, -1))


@dataclass(frozen=True)
class Cutout:
    """A grey square of `pixels` a side at a random place in each image; it may cross the edge.

    After DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552.
    """

    pixels: int

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        n, _, height, width = images.shape
        hidden = self._run(n, height, generator).unsqueeze(2) & self._run(n, width, generator).unsqueeze(1)
        return images.masked_fill(hidden.unsqueeze(1).to(images.device), 127)

    def _run(self, n: int, side: int, generator: Generator) -> Tensor:  # bool [n, side], `pixels` in a row
        centre = torch.randint(0, side, (n, 1), generator=generator)
        distance = torch.arange(side) - (centre - self.pixels // 2)
        return (distance >= 0) & (distance < self.pixels)


@dataclass(frozen=True)
class Deform:
    """Random rotation, stretch, slant, shift and bend of each image on a background of 0, as in handwriting.

    Bending adds a smooth random displacement, a random vector at each of 4 x 4 knots with cubic interpolation between
    them: the elastic distortion of Simard et al. (2003) without its large convolutions.
    """

    degrees: float  # standard deviations, each
    stretch: float  # of the width, and of the height, as a share
    slant: float
    move: float  # pixels
    bend: float  # pixels, at the knots

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        height, width = images.shape[2:]
        grid = (self._coefficients(images, generator) @ _field(height, width)).view(-1, 2, height, width)
        moved = grid_sample(images.float(), grid.permute(0, 2, 3, 1).to(images.device), align_corners=False)
        return moved.round().to(torch.uint8)

    def _coefficients(self, images: Tensor, generator: Generator) -> Tensor:  # float32 [N, 2, 3 + 16], of `_field`
        n, pixel = len(images), 2 / images.shape[3]

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator).clamp(-2.5, 2.5)

        angle = normal() * math.radians(self.degrees)
        matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        matrix = matrix * (1 + self.stretch * normal(1, 2))
        matrix[:, 0, 1] += self.slant * normal()
        return torch.cat([matrix, self.move * pixel * normal(2, 1), self.bend * pixel * normal(2, KNOTS**2)], 2)


KNOTS = 4


def _field(height: int, width: int) -> Tensor:  # float32 [3 + 16, H * W]
    """Return the terms of a sampling grid: x, y, a constant, and a bump at each knot."""
    x = ((torch.arange(width) + 0.5) * 2 / width - 1).expand(height, width)
    y = ((torch.arange(height) + 0.5) * 2 / height - 1).view(-1, 1).expand(height, width)
    knots = torch.eye(KNOTS**2).view(KNOTS**2, 1, KNOTS, KNOTS)
    bumps = interpolate(knots, size=(height, width), mode="bicubic", align_corners=True).flatten(1)
    return torch.cat([torch.stack([x, y, torch.ones_like(x)]).flatten(1), bumps])


def shrink(images: Tensor) -> Tensor:  # uint8 [N, C, H, W] -> uint8 [N, C, 3/4 H, 3/4 W]
    """Return the images at 3/4 of their size, which makes early epochs cost 0.56 of the work.

    Progressive resizing, as in Howard's entry to DAWNBench, https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html.
    """
    height, width = (side * 3 // 4 for side in images.shape[2:])
    small = interpolate(images.float(), size=(height, width), mode="bilinear", antialias=True)
    return small.round().to(torch.uint8)


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression of a share of the images, each at a random quality, as clients send them."""

    share: float
    lowest: int = 60
    highest: int = 95

    def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch
        chosen = (torch.rand(len(images), generator=generator) < self.share).nonzero().flatten()
        qualities = torch.randint(self.lowest, self.highest + 1, (len(chosen),), generator=generator)
        if not len(chosen):
            return images
        chosen = chosen.to(images.device)
        compressed = jpeg.compress(images.index_select(0, chosen), qualities.to(images.device))
        return images.index_copy(0, chosen, compressed)


def scaled(augmentation: Augmentation, times: float) -> Augmentation:
    """Return `augmentation` for images that are `times` as large a side: what it counts in pixels grows with them."""
    match augmentation:
        case Chain():
            return Chain(tuple(scaled(link, times) for link in augmentation.links))
        case OneOf():
            return replace(augmentation, choices=tuple(scaled(choice, times) for choice in augmentation.choices))
        case Blur():
            return replace(augmentation, widest=augmentation.widest * times)
        case Scatter():
            return replace(augmentation, pixels=augmentation.pixels * times)
        case Translate() | Cutout():
            return replace(augmentation, pixels=round(augmentation.pixels * times))
        case Deform():
            return replace(augmentation, move=augmentation.move * times, bend=augmentation.bend * times)
    return augmentation
