"""Turn a picture of any colour mode into 8-bit grey or RGB, transparency over white. Knows nothing about models."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

_STRIP_PIXELS = 2**20
"""Converted at a time: a mode with transparency or 16 bits takes up to 24 bytes for each pixel in between."""


def flatten(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Return the picture as 8-bit `mode`, as it would be seen on white paper."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.width * image.height <= _STRIP_PIXELS:
        return _flatten(image, mode)
    flat = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        flat.paste(_flatten(strip, mode), (0, top))
    return flat


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colour, by its mode and palette; its pixels are not looked at."""
    if image.mode == "P":
        levels = image.getpalette() or []
        return levels[::3] == levels[1::3] == levels[2::3]
    return image.mode in _GREY_MODES


_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})


def _flatten(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_eight_bits(image)
    elif image.mode == "F":
        image = image.convert("L")  # clipped to 0 and 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit or wider grey picture, scaled from 16 bits to 8; its see-through level becomes white."""
    values = np.asarray(image)
    scaled = (values.astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8)
    if isinstance(level := image.info.get("transparency"), int):
        scaled[values == level] = 255
    return Image.fromarray(scaled)
