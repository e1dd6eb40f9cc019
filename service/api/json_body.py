"""JSON of requests: parsed once it is known to be small and shallow, and described by its start."""

from __future__ import annotations

import math
import reprlib
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from service.problems import BadRequest, TooLarge, Unprocessable

MAX_DEPTH = 32
"""Arrays and objects in each other; the deepest that any path takes has eight dimensions, four levels down."""

_MARKS = b'[]{}"'
_STEPS = bytes.maketrans(_MARKS, b"\x01\xff\x01\xff\x00")  # as int8: one deeper, one back, a quotation mark
_THE_REST = bytes(set(range(256)) - set(_MARKS))

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxstring = _short.maxother = _short.maxlong = 40
_MOST_SHOWN = 60


def parse(body: bytes, max_values: int) -> Any:
    """Return the document in `body`.

    Raises:
        BadRequest: it is no JSON, or goes deeper than MAX_DEPTH.
        TooLarge: it holds more than `max_values` numbers, strings, arrays and objects.
    """
    check(body, max_values)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise no_json(error) from error


def check(body: bytes, max_values: int) -> None:
    """Refuse a document that would take too much memory or too many levels, before it is parsed.

    An empty array takes three bytes of JSON and 64 of memory, so bytes alone are no limit.

    Raises:
        BadRequest: it goes deeper than MAX_DEPTH.
        TooLarge: it holds more than `max_values` numbers, strings, arrays and objects.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if len(body) > max_values:  # a value takes a byte or more
        values = 1 + body.count(b",") + brackets  # or a few more: strings hold commas, too
        if values > max_values:
            most = f"{max_values:,} numbers, strings, arrays and objects"
            raise TooLarge(f"JSON must hold at most {most}. Given: {values:,}")
    if brackets > MAX_DEPTH and _goes_too_deep(body):  # nearly no body has so many
        raise BadRequest(f"the body must be JSON of at most {MAX_DEPTH} arrays or objects in each other. Given: more")


def no_json(error: Exception) -> BadRequest:
    """Return the refusal of a body on which a parser failed with `error`."""
    return BadRequest(f"the body must be JSON. Given: {error}")


def parse_object(body: bytes, max_values: int) -> dict[str, Any]:
    """Return the object in `body`, an empty one if that is empty.

    Raises:
        BadRequest, TooLarge: as `parse`.
        Unprocessable: it is another document.
    """
    document = parse(body or b"{}", max_values)
    if not isinstance(document, dict):
        raise Unprocessable(f"the body must be empty or a JSON object. Given: {describe(document)}")
    return document


@lru_cache(maxsize=256)
def most_values(count: int, shape: tuple[int, ...]) -> int:
    """Return how many values `count` inputs of `shape` make as JSON, with an array for each dimension."""
    arrays = sum(math.prod(shape[:depth]) for depth in range(len(shape)))
    return count * (arrays + math.prod(shape))


def describe(value: Any) -> str:
    """Return the start of a value, however large or deep it is."""
    text = _short.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _goes_too_deep(body: bytes) -> bool:
    # Without a loop or a regular expression, either of which takes seconds for millions of small strings.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = np.frombuffer(unescaped.translate(_STEPS, _THE_REST), np.int8)
    is_quote = steps == 0
    is_outside = ~(np.logical_xor.accumulate(is_quote) | is_quote)  # of strings
    return bool(np.cumsum(steps[is_outside], dtype=np.int32).max(initial=0) > MAX_DEPTH)
