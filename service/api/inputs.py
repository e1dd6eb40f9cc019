"""Find the inputs in a request's body: an image as it is, files of a form, or JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api import documents
from service.api.documents import describe
from service.api.http import media_type
from service.errors import BadRequest, Problem, TooLarge, Unprocessable, UnsupportedMediaType
from service.manifest import FeatureInput

RAW_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"}
)
FORM = "multipart/form-data"
JSON = "application/json"

_PARTS_PER_IMAGE = 2  # beside its file, a form may have as many fields

Image = bytes | Problem
"""An encoded image, or what is wrong with it; one bad image does not spoil its neighbours."""


async def find_images(content_type: str, body: bytes, max_images: int) -> list[Image]:
    """The encoded images of a request, in its order; at least one.

    Raises:
        BadRequest: the body is not what its content type says.
        TooLarge: there are more than `max_images`.
        Unprocessable: JSON of another shape than `{"image": ...}` or `{"images": [...]}`.
        UnsupportedMediaType: a content type that is not taken.
    """
    kind = media_type(content_type)
    if kind in RAW_TYPES:
        return [body]
    if kind == FORM:
        return [*await _files(content_type, body, max_images)]
    if kind == JSON:
        return _from_json(documents.parse(body), max_images)
    raise UnsupportedMediaType(
        f"content-type must be one of {', '.join(sorted(RAW_TYPES))}, {FORM} or {JSON}. Given: {content_type!r}"
    )


def find_features(content_type: str, body: bytes, spec: FeatureInput, max_images: int) -> bytes:
    """The feature vectors of a JSON request, as float32 [N, F].

    Raises:
        BadRequest: the body is not JSON.
        TooLarge: there are more than `max_images`.
        Unprocessable: it is not `{"features": [[...]]}` with `F` finite numbers in each.
        UnsupportedMediaType: it does not claim to be JSON.
    """
    if media_type(content_type) != JSON:
        raise UnsupportedMediaType(f"a model of features takes {JSON}. Given: {content_type!r}")
    rows = _only_key(documents.parse(body), "features")
    width = spec.shape[0]
    required = f'"features" must be a list of lists of {width} numbers'
    if not (isinstance(rows, list) and rows):
        raise Unprocessable(f"{required}. Given: {describe(rows)}")
    _check_count(len(rows), max_images)
    for row in rows:
        if not (isinstance(row, list) and len(row) == width and all(type(x) in (int, float) for x in row)):
            raise Unprocessable(f"{required}. Given: {describe(row)}")
    with np.errstate(over="ignore"):
        vectors = np.asarray(rows, np.float64).astype("<f4")
    if not np.isfinite(vectors).all():
        raise Unprocessable(f"{required} that fit into float32. Given: a number that does not")
    return vectors.tobytes()


class _FormParser(MultiPartParser):
    """Starlette's parser, which does not say by itself whether it came to the last boundary, nor counts its parts."""

    is_whole = False
    parts = 0
    max_parts = 0

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > self.max_parts:  # raised in here, before the work of the next part
            raise TooLarge(f"a form must have at most {self.max_parts} parts. Given: more")
        super().on_part_begin()

    def on_end(self) -> None:
        self.is_whole = True


async def _files(content_type: str, body: bytes, max_images: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        if not parser.is_whole:  # raised in here, so that the parser closes what it has opened
            raise MultiPartException("one that is cut off")

    no_limit = len(body)  # of its own: files and fields are both parts
    parser = _FormParser(Headers({"content-type": content_type}), stream(), max_files=no_limit, max_fields=no_limit)
    parser.max_parts = _PARTS_PER_IMAGE * max_images
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(
            f"the form must be well-formed multipart/form-data with its boundary. Given: {error}"
        ) from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise Unprocessable("the form must hold at least one file. Given: none")
        _check_count(len(files), max_images)
        return [await file.read() for file in files]
    finally:
        await form.close()


def _from_json(document: Any, max_images: int) -> list[Image]:
    if isinstance(document, dict) and "image" in document:
        return [_decode_base64(_only_key(document, "image"))]
    images = _only_key(document, "images")
    if not (isinstance(images, list) and images):
        raise Unprocessable(f'"images" must be a list of base64 strings, at least one. Given: {describe(images)}')
    _check_count(len(images), max_images)
    return [_decode_base64(image) for image in images]


def _decode_base64(text: Any) -> Image:
    if not isinstance(text, str):
        return Unprocessable(f"an image must be a base64 string. Given: {describe(text)}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return BadRequest(f"an image must be base64. Given: {error}")


def _only_key(document: Any, key: str) -> Any:
    if not isinstance(document, dict) or set(document) != {key}:
        given = f"the keys {describe(sorted(document))}" if isinstance(document, dict) else describe(document)
        raise Unprocessable(f'the body must be a JSON object with "{key}" alone. Given: {given}')
    return document[key]


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooLarge(f"a request must hold at most {max_images} inputs. Given: {count}")
