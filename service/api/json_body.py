"""JSON as requests bring it: parsed, but not before it is known to be shallow; and shown, but only the start of it."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import orjson

from service.problems import BadRequest

MAX_DEPTH = 32
"""Arrays and objects in each other; the deepest that any path takes has eight dimensions, four levels down."""

_MARKS = b'[]{}"'
_STEPS = bytes.maketrans(_MARKS, b"\x01\xff\x01\xff\x00")  # as int8: one deeper, one back, a quotation mark
_THE_REST = bytes(set(range(256)) - set(_MARKS))

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxstring = _short.maxother = _short.maxlong = 40
_MOST_SHOWN = 60


def parse(body: bytes) -> Any:
    """Return the document in `body`.

    Raises:
        BadRequest: it is no JSON, or goes deeper than MAX_DEPTH.
    """
    if _goes_too_deep(body):
        raise BadRequest(f"the body must be JSON of at most {MAX_DEPTH} arrays or objects in each other. Given: more")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body must be JSON. Given: {error}") from error


def describe(value: Any) -> str:
    """Return the start of a value, however large or deep it is."""
    text = _short.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _goes_too_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False  # nearly every body
    # Without a loop or a regular expression, either of which takes seconds for millions of small strings.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = np.frombuffer(unescaped.translate(_STEPS, _THE_REST), np.int8)
    is_outside = np.cumsum(steps == 0, dtype=np.int32) % 2 == 0  # of strings
    return bool(np.cumsum(steps * is_outside, dtype=np.int32).max(initial=0) > MAX_DEPTH)
