"""Several images in one request to Argmax: files in a form, raw bytes of a tensor by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import torch

from benchmarks.pictures import Pixels, pngs
from benchmarks.serving.load import Posts, closed_loop
from benchmarks.serving.requests import form, tensors

ONE = "one PNG"

_CONNECTIONS = 64
_FILES = 32  # of 256 images: eight requests that differ
_TENSOR = 128


def drive(url: str, model: str, pixels: Pixels, seconds: float) -> Iterator[tuple[str, float]]:
    """Yield each form of a request, and the images/s that it reaches."""
    base = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    images = pngs(pixels)
    infer, batches = f"{base}/v2/models/{model}/infer", tensors(pixels, _TENSOR, "class_ids")
    loads = {
        ONE: (url, 1, Posts(images, {"Content-Type": "image/png"})),
        f"{_FILES} PNGs in a form": (url, _FILES, form(_groups(images), "images")),
        f"{_TENSOR} in a binary tensor": (infer, _TENSOR, batches),
    }
    for name, (address, size, posts) in loads.items():
        connections = max(2, _CONNECTIONS // size) if size > 1 else _CONNECTIONS
        result = closed_loop(address, posts, connections=connections, seconds=seconds)
        if result.errors:
            raise RuntimeError(f"{name} must be answered. Given: {result.errors} errors")
        yield name, result.rate * size


def tensor(pixels: Pixels) -> torch.Tensor:
    """Return images as a model takes them, uint8 [N, C, H, W]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()


def _groups(images: list[bytes]) -> list[list[bytes]]:
    return [images[start : start + _FILES] for start in range(0, len(images), _FILES)]
