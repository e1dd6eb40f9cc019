"""Cut any number of images into requests of a size that the service takes. Knows nothing about requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, TypeVar

from service.client.answers import PredictionError
from service.client.inputs import encode

T = TypeVar("T")

MOST_IMAGES = 64
MOST_BYTES = 4 * 2**20
"""Of one request with several images: a quarter of what the service takes, so that base64 and a neighbour fit."""

Encoded = bytes | PredictionError
"""An image's file, or why there is none."""


def cut(images: Iterable[T], most_images: int = MOST_IMAGES) -> Iterator[list[tuple[T, Encoded]]]:
    """Return the images and their files, as many at a time as one request should hold; read only when they are due."""
    if isinstance(images, (str, bytes, bytearray, PathLike)):
        raise TypeError(f"images must be several, such as a list of paths. Given: one {type(images).__name__}")
    batch: list[tuple[T, Encoded]] = []
    size = 0
    for image in images:
        encoded = _read(image)
        more = len(encoded) if isinstance(encoded, bytes) else 0
        if batch and (len(batch) >= most_images or size + more > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((image, encoded))
        size += more
    if batch:
        yield batch


def _read(image: Any) -> Encoded:
    """Return the image's file; one that cannot be read is an error among others."""
    try:
        return encode(image)
    except OSError as error:
        return PredictionError(None, f"the file must be readable. Given: {image}: {error.strerror or error}")
