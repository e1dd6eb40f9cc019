"""Ink on paper as MNIST shows it: light on black, cropped, centred. Knows nothing about files or models."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.images import sheets
from service.images.split import INK_LEVEL

_INK_PIXELS = 20  # the longer side of the ink, in a 28 x 28 image

_ENOUGH_PIXELS = 512  # of the longer side of a sheet

LEAST_CONTRAST = 16  # of 255, between paper and ink; less is a blank sheet

# Of the 60,000 training images the border's median is 0 in all, and the lightest pixel at least 254.
_DARKEST_GREY = 12
_LEAST_LIGHT = 128

Pixels: TypeAlias = npt.NDArray[np.uint8]
Drawing: TypeAlias = npt.NDArray[np.float32]


def is_mnist(drawn: bytes, width: int) -> bool:
    """Return whether an image already looks like MNIST: light ink on a black border. drawn: uint8 [H, W], row-major."""
    # 99 in 100 images of MNIST end here.
    black = bytes(width)
    if drawn.startswith(black) and drawn.endswith(black) and (255 in drawn or 254 in drawn):
        return True
    pixels = np.frombuffer(drawn, np.uint8).reshape(-1, width)
    border = sorted(sheets.border(pixels).tobytes())  # their number is even; numpy's median takes three times as long
    middle = len(border) // 2
    return (border[middle - 1] + border[middle]) / 2 <= _DARKEST_GREY and int(pixels.max()) >= _LEAST_LIGHT


def is_blank(pixels: Pixels) -> bool:
    """Return whether there is nothing to see: one colour but for noise too faint to be ink. pixels: uint8 [C, H, W]."""
    return bool((pixels.max(axis=(1, 2)).astype(int) - pixels.min(axis=(1, 2)) < LEAST_CONTRAST).all())


def shrink(sheet: Image.Image) -> Image.Image:
    """Return a large sheet at a whole fraction of its size; that is enough to find the ink."""
    times = -(-max(sheet.size) // _ENOUGH_PIXELS)
    return sheet.reduce(times) if times > 1 else sheet


def redraw_as_mnist(pixels: Pixels, height: int, width: int) -> Pixels:
    """Light ink on black, cropped, its longer side 20 of 28 pixels, its centre of mass in the middle.

    That is how MNIST was made from NIST's scans (LeCun et al., "Gradient-based learning applied to document
    recognition", 1998). pixels: uint8 [H, W] of any size; gives uint8 [height, width], black for a blank sheet.
    """
    return redraw_ink(sheets.ink_of(pixels), height, width)


def redraw_ink(ink: Drawing, height: int, width: int) -> Pixels:
    """Do the same with ink that has been found, float32 [H, W], 0 for paper."""
    darkest = float(ink.max())
    if darkest < LEAST_CONTRAST:
        return np.zeros((height, width), np.uint8)
    drawing = _scaled(_cropped(ink / darkest), round(_INK_PIXELS * min(height, width) / 28))
    return (_centred(drawing, height, width) * 255).round().astype(np.uint8)


def _cropped(ink: Drawing) -> Drawing:
    drawn = ink > INK_LEVEL
    rows, columns = np.nonzero(drawn.any(axis=1))[0], np.nonzero(drawn.any(axis=0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(ink: Drawing, longer_side: int) -> Drawing:
    scale = longer_side / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    filtering = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    scaled: Drawing = np.asarray(Image.fromarray(ink).resize((width, height), filtering))
    return (scaled / max(float(scaled.max()), 1e-6)).clip(0, 1)


def _centred(ink: Drawing, height: int, width: int) -> Drawing:
    """Return the drawing on a sheet of [height, width], its centre of mass in the middle as far as it fits."""
    mass = ink.sum()
    top, left = (
        int(np.clip(round((space - 1) / 2 - float(ink.sum(axis=1 - axis) @ np.arange(side) / mass)), 0, space - side))
        for axis, (space, side) in enumerate(zip((height, width), ink.shape, strict=True))
    )
    sheet = np.zeros((height, width), np.float32)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet
