"""Fit a picture of any size and proportions into a model's input. Knows nothing about files or models."""

from __future__ import annotations

from PIL import Image, ImageOps

from service.contract.manifest import Fit

_BARS = 128  # of 255, beside a picture in a letterbox: neither dark nor light


def fit(image: Image.Image, size: tuple[int, int], how: Fit) -> Image.Image:
    """Return the 'L' or 'RGB' picture at `size`, (width, height); one that has it already passes unchanged."""
    if image.size == size:
        return image
    if how == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if how == "stretch":
        return image.resize(size, Image.Resampling.BICUBIC)
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    box = Image.new(image.mode, size, (_BARS,) * len(image.getbands()))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    box.paste(small, ((size[0] - width) // 2, (size[1] - height) // 2))
    return box
