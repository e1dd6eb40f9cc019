"""Ink on paper as MNIST shows it: light on black, cropped, centred. Knows nothing about files or models."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_INK_PIXELS = 20  # the longer side of the ink, in a 28 x 28 image
_INK_LEVEL = 0.25  # of the darkest stroke; below it is paper, noise or the soft edge of a stroke

_ENOUGH_PIXELS = 1024  # of the longer side of a sheet

_LEAST_CONTRAST = 16  # of 255, between paper and ink; less is a blank sheet

_PAPER_FITS = 5  # of the plane to the border; it hardly moves any more
_PAPER_GRAIN = 2.0  # of 255; what is nearer to the plane counts as much as what lies on it

Pixels = npt.NDArray[np.uint8]
Drawing = npt.NDArray[np.float32]


def is_mnist(pixels: Pixels) -> bool:
    """Whether the border, which is paper, is darker than the middle grey. pixels: uint8 [H, W]."""
    # Nearly every image of MNIST ends here, in 0.3 microseconds where the median takes 30.
    return pixels[0].tobytes().strip(b"\0") == b"" or float(np.median(_border(pixels))) <= 127


def shrink(sheet: Image.Image) -> Image.Image:
    """Return a large sheet at a whole fraction of its size; 1,000 pixels are enough to find the ink."""
    times = max(sheet.size) // _ENOUGH_PIXELS
    return sheet.reduce(times) if times > 1 else sheet


def _border(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]))


def redraw_as_mnist(pixels: Pixels, height: int, width: int) -> Pixels:
    """Light ink on black, cropped, its longer side 20 of 28 pixels, its centre of mass in the middle.

    That is how MNIST was made from NIST's scans (LeCun et al., "Gradient-based learning applied to document
    recognition", 1998). pixels: uint8 [H, W] of any size; gives uint8 [height, width], black for a blank sheet.
    """
    ink = _ink(pixels)
    darkest = float(ink.max())
    if darkest < _LEAST_CONTRAST:
        return np.zeros((height, width), np.uint8)
    drawing = _scaled(_cropped(ink / darkest), round(_INK_PIXELS * min(height, width) / 28))
    return (_centred(drawing, height, width) * 255).round().astype(np.uint8)


def _ink(pixels: Pixels) -> Drawing:
    """How much ink is at each place, from 0 for paper; what differs most from the paper, dark or light, is ink."""
    ink = pixels.astype(np.float32) - _paper(pixels)
    return (-ink if -ink.min() > ink.max() else ink).clip(0)


def _paper(pixels: Pixels) -> Drawing:
    """How light the paper is at each place: the plane that most of the border lies on, [H, W] or, where level, [1, 1].

    A photo is lighter at one side than at the other, by more than a pale stroke differs from the paper. The plane of
    least absolute deviations minds no ink that touches the border; each fit weighs with what the last one left over.
    """
    border = _border(pixels).astype(np.float64)
    if border.min() == border.max():
        return np.full((1, 1), border[0], np.float32)  # a drawing: even paper, and no light
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in pixels.shape)
    across = np.broadcast_to(columns, pixels.shape), np.broadcast_to(rows[:, None], pixels.shape)
    places = np.stack((np.ones_like(border), *map(_border, across)))  # [3, border]
    plane = np.array([np.median(border), 0, 0])
    for _ in range(_PAPER_FITS):
        weighted = places / np.maximum(abs(border - plane @ places), _PAPER_GRAIN)
        plane = np.linalg.pinv(weighted @ places.T) @ (weighted @ border)
    level, right, down = plane.astype(np.float32)
    paper: Drawing = (level + down * rows)[:, None] + right * columns
    return paper


def _cropped(ink: Drawing) -> Drawing:
    drawn = ink > _INK_LEVEL
    rows, columns = np.nonzero(drawn.any(axis=1))[0], np.nonzero(drawn.any(axis=0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(ink: Drawing, longer_side: int) -> Drawing:
    scale = longer_side / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    filtering = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    scaled: Drawing = np.asarray(Image.fromarray(ink).resize((width, height), filtering))
    return (scaled / max(float(scaled.max()), 1e-6)).clip(0, 1)


def _centred(ink: Drawing, height: int, width: int) -> Drawing:
    """The drawing on a sheet of [height, width], its centre of mass in the middle as far as it fits."""
    mass = ink.sum()
    top, left = (
        int(np.clip(round((space - 1) / 2 - float(ink.sum(axis=1 - axis) @ np.arange(side) / mass)), 0, space - side))
        for axis, (space, side) in enumerate(zip((height, width), ink.shape, strict=True))
    )
    sheet = np.zeros((height, width), np.float32)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet
