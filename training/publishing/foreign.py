"""Pictures that no class describes, made without a download, to measure how well a model notices them.

Each kind becomes inputs as a client's picture would, by `service.images`. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from service.contract.manifest import ImageInput
from service.images.decode import prepare
from training.data import pictures, sources
from training.data.cache import NO_CACHE, Cache

Draw = Callable[[np.random.Generator], Image.Image]

_SIDE = 64
"""Pixels of a drawn picture's side; a client's is seldom the model's own size."""

_LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabdefhjkmnpqrtuvwxy"
"""Without I, O, S, Z, c, g, i, l, o, s and z, which are digits too in some hand."""

_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneral")
"""Fonts that come with matplotlib."""


def letters(rng: np.random.Generator) -> Image.Image:
    """Draw a printed letter."""
    paper, pen = _paper_and_pen(rng)
    image = Image.new("RGB", (_SIDE, _SIDE), paper)
    font = _font(str(rng.choice(_FONTS)), int(rng.integers(36, 52)))
    x, y = _SIDE / 2 + rng.uniform(-4, 4, 2)
    ImageDraw.Draw(image).text((x, y), str(rng.choice(list(_LETTERS))), fill=pen, font=font, anchor="mm")
    return image


def textures(rng: np.random.Generator) -> Image.Image:
    """Draw stripes, a chequered pattern or clouds."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    angle, cycles = rng.uniform(0, np.pi), rng.uniform(2, 10)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        level = np.sin(2 * np.pi * cycles * along + rng.uniform(0, 6))
    elif kind == 1:
        level = np.sign(np.sin(2 * np.pi * cycles * along) * np.sin(2 * np.pi * cycles * across))
    else:
        coarse = Image.fromarray(rng.standard_normal((round(cycles) + 2,) * 2).astype(np.float32))
        level = np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)).clip(-1, 1)
    dark, light = _colours(rng)
    share = (level[..., None] + 1) / 2
    return _picture(dark + (light - dark) * share)


def noise(rng: np.random.Generator) -> Image.Image:
    """Draw pixels that know nothing of each other, uniform or normal."""
    if rng.integers(2):
        return _picture(rng.uniform(0, 256, (_SIDE, _SIDE, 3)))
    return _picture(rng.normal(rng.uniform(64, 192), rng.uniform(20, 80), (_SIDE, _SIDE, 3)))


def blank_pages(rng: np.random.Generator) -> Image.Image:
    """Draw an empty sheet with grain, lit from one side."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE - 0.5
    shade = rng.uniform(-30, 30) * x + rng.uniform(-30, 30) * y
    level = rng.uniform(150, 240) + shade + rng.normal(0, rng.uniform(0, 4), (_SIDE, _SIDE))
    return _picture(level[..., None] + rng.uniform(-8, 8, 3))


def scribbles(rng: np.random.Generator) -> Image.Image:
    """Draw a few long curves that cross each other."""
    paper, pen = _paper_and_pen(rng)
    image = Image.new("RGB", (2 * _SIDE, 2 * _SIDE), paper)
    draw = ImageDraw.Draw(image)
    width = int(rng.integers(4, 10))
    for _ in range(rng.integers(2, 5)):
        knots = rng.uniform(0.1, 0.9, (rng.integers(4, 8), 2)) * 2 * _SIDE
        draw.line(_curve(knots), fill=pen, width=width, joint="curve")
    return image.resize((_SIDE, _SIDE), Image.Resampling.BOX)


KINDS: dict[str, Draw] = {
    "letters from fonts": letters,
    "textures": textures,
    "noise": noise,
    "blank pages": blank_pages,
    "scribbles": scribbles,
}
"""The kinds that every card reports. Nothing may be chosen on them, or they would measure nothing."""

PICTURES = 500
"""Of each kind."""


def inputs_of(kind: str, spec: ImageInput) -> Tensor:
    """Return pictures of a kind as inputs, uint8 [PICTURES, C, H, W], the same each time."""
    rng = np.random.default_rng(0)
    return as_inputs((KINDS[kind](rng) for _ in range(PICTURES)), spec)


def datasets_beside(name: str, spec: ImageInput, data_dir: Path, cache: Cache = NO_CACHE) -> dict[str, Tensor]:
    """Return as many pictures of the other data sets of the shipped models, where their files are there already."""
    mnist, cifar10 = data_dir / "MNIST" / "raw" / "t10k-images-idx3-ubyte", data_dir / "cifar10"
    found = {}
    if mnist.exists() and name not in sources.INK:
        found["mnist"] = sources.load("mnist", "test", data_dir)
    if name != "cifar10" and pictures.there("train", cifar10):
        found["cifar10"] = sources.load("cifar10", "holdout", data_dir, cache=cache)
    return {kind: as_inputs(images_of(data.inputs[:PICTURES]), spec) for kind, data in found.items()}


def as_inputs(images: Iterable[Image.Image], spec: ImageInput) -> Tensor:
    """Return pictures of any size as a model takes them, uint8 [N, C, H, W]."""
    data = bytearray().join(prepare(picture, spec) for picture in images)
    return torch.frombuffer(data, dtype=torch.uint8).view(-1, *spec.shape)


def images_of(inputs: Tensor) -> Iterator[Image.Image]:
    """Yield another dataset's inputs, uint8 [N, C, H, W], as pictures."""
    for pixels in inputs.cpu().movedim(1, -1):
        yield Image.fromarray(pixels.squeeze(-1).numpy())


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # a second: only who publishes needs it

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")), size)


def _paper_and_pen(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dark, light = (tuple(int(level) for level in colour) for colour in _colours(rng))
    return (light, dark) if rng.integers(4) else (dark, light)


def _colours(rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a dark and a light colour."""
    return rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)


def _curve(knots: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return points on a Catmull-Rom spline through `knots`, [K, 2]."""
    padded = np.concatenate((knots[:1], knots, knots[-1:]))
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    points = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        points.append(b + (c - a) / 2 * t + (a - 2.5 * b + 2 * c - d / 2) * t**2 + (1.5 * (b - c) + (d - a) / 2) * t**3)
    return [(float(x), float(y)) for x, y in np.concatenate([*points, knots[-1:]])]


def _picture(levels: npt.NDArray[np.float64]) -> Image.Image:
    shown = np.broadcast_to(levels, (*levels.shape[:2], 3)).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(shown)
