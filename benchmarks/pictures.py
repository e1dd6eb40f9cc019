"""Real images to send: uint8 [N, H, W, C], and as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def mnist(root: Path, count: int = 256) -> Pixels:
    """The first images of MNIST's test set, [N, 28, 28, 1]."""
    raw = (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:count]


def noise(shape: tuple[int, ...], count: int = 256) -> Pixels:
    """Images of nothing, [N, H, W, C], for a model whose dataset is not at hand."""
    channels, height, width = shape
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def pngs(pixels: Pixels) -> list[bytes]:
    """Each image as a PNG file."""
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded
