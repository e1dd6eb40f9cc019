"""The inputs in a request's body: an image as it is, files of a form, or JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from service.api import json_body, multipart
from service.api.json_body import describe
from service.api.request import PARAMETERS, media_type
from service.contract.manifest import FeatureInput
from service.counting import counted
from service.problems import BadRequest, Problem, TooLarge, Unprocessable, UnsupportedMediaType

RAW_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"}
)
FORM = "multipart/form-data"
JSON = "application/json"

_PARTS_PER_IMAGE = 2  # beside its file, a form may have as many fields
_VALUES_PER_IMAGE = 4  # of JSON: a string, as a data URL with a comma in it; the rest is room
_VALUES_AROUND = 64
"""What JSON may hold besides its inputs; a request with a little too much gets to hear what is wrong with it."""

_NUMBERS = frozenset({int, float})

Image = bytes | Problem
"""An encoded image, or what is wrong with it; one bad image does not spoil its neighbours."""


def find_images(content_type: str, body: bytes, max_images: int) -> list[Image]:
    """Return the encoded images of a request, in its order; at least one.

    Raises:
        BadRequest: the body is not what its content type says.
        TooLarge: there are more than `max_images`, or JSON holds more values than so many need.
        Unprocessable: JSON of another shape than `{"image": ...}` or `{"images": [...]}`.
        UnsupportedMediaType: a content type that is not taken.
    """
    if content_type in RAW_TYPES or (kind := media_type(content_type)) in RAW_TYPES:
        return [body]
    if kind == FORM:
        found = multipart.files(content_type, body, max_parts=_PARTS_PER_IMAGE * max_images, parameters=PARAMETERS)
        if not found:
            raise Unprocessable("the form must hold at least one file. Given: none")
        _check_count(len(found), max_images)
        return [*found]
    if kind == JSON:
        return _from_json(json_body.parse(body, _VALUES_PER_IMAGE * max_images + _VALUES_AROUND), max_images)
    raise UnsupportedMediaType(
        f"content-type must be one of {', '.join(sorted(RAW_TYPES))}, {FORM} or {JSON}. Given: {_shown(content_type)}"
    )


def find_features(content_type: str, body: bytes, spec: FeatureInput, max_images: int) -> bytes:
    """Return the feature vectors of a JSON request, as float32 [N, F].

    Raises:
        BadRequest: the body is not JSON.
        TooLarge: there are more than `max_images`, or JSON holds more values than so many need.
        Unprocessable: it is not `{"features": [[...]]}` with `F` finite numbers in each.
        UnsupportedMediaType: it does not claim to be JSON.
    """
    if media_type(content_type) != JSON:
        raise UnsupportedMediaType(f"a model of features takes {JSON}. Given: {_shown(content_type)}")
    most = json_body.most_values(max_images, spec.shape) + _VALUES_AROUND
    rows = _only_key(json_body.parse(body, most), "features")
    width = spec.shape[0]
    required = f'"features" must be a list of lists of {counted(width, "number")}'
    if not (isinstance(rows, list) and rows):
        raise Unprocessable(f"{required}. Given: {describe(rows)}")
    _check_count(len(rows), max_images)
    for row in rows:
        if not (isinstance(row, list) and len(row) == width and _NUMBERS.issuperset(map(type, row))):
            raise Unprocessable(f"{required}. Given: {describe(row)}")
    with np.errstate(over="ignore"):
        vectors = np.asarray(rows, np.float64).astype("<f4")
    if not np.isfinite(vectors).all():
        raise Unprocessable(f"{required} that fit into float32. Given: a number that does not")
    return vectors.tobytes()


def _from_json(document: Any, max_images: int) -> list[Image]:
    if isinstance(document, dict) and "image" in document:
        return [_decode_base64(_only_key(document, "image"))]
    images = _only_key(document, "images", '"image" or "images"')
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
        return BadRequest(f"an image must be base64, or a data URL with it. Given: {describe(text)} ({error})")


def _only_key(document: Any, key: str, keys: str = "") -> Any:
    if not isinstance(document, dict) or set(document) != {key}:
        keys = keys or f'"{key}"'
        given = f"the keys {describe(sorted(document))}" if isinstance(document, dict) else describe(document)
        raise Unprocessable(f"the body must be a JSON object with {keys} alone. Given: {given}")
    return document[key]


def _shown(content_type: str) -> str:
    return repr(content_type) if content_type else "none"


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise TooLarge(f"a request must hold at most {counted(max_images, 'input')}. Given: {count}")
