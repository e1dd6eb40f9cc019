"""The parameters of a request: those of its query, and its deadline."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import parse_qsl

from service.contract.manifest import LEAST_COVERAGE, MOST_COVERAGE
from service.http.messages import Request
from service.problems import BadRequest

PRIORITIES = ("normal", "bulk")

PARAMETERS = ("model", "version", "top_k", "probabilities", "show_input", "abstain", "coverage", "split", "priority")
_DECIMAL = re.compile(r"[0-9]*\.?[0-9]+([eE]-?[0-9]{1,2})?")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Query:
    """The parameters of /predict, of which other protocols give the first two."""

    __slots__ = (
        "abstain",
        "bulk",
        "coverage",
        "model",
        "probabilities",
        "show_input",
        "split",
        "top_k",
        "version",
    )

    def __init__(
        self,
        model: str | None = None,
        version: str | None = None,
        top_k: int | None = None,
        *,
        probabilities: bool = False,
        show_input: bool = False,
        abstain: bool = False,
        coverage: float | None = None,
        split: bool = False,
        bulk: bool = False,
    ) -> None:
        self.model = model
        self.version = version
        self.top_k = top_k
        self.probabilities = probabilities
        self.show_input = show_input
        self.abstain = abstain
        self.coverage = coverage
        self.split = split
        self.bulk = bulk


def timeout_seconds(request: Request) -> float:
    """Return the client's own deadline, in seconds from the request's arrival.

    Raises:
        BadRequest: the header is no whole number of milliseconds.
    """
    if b"x-request-timeout-ms" not in request.headers:
        return request.remaining_seconds
    text = request.header("x-request-timeout-ms") or ""
    return min(whole_number(text, "x-request-timeout-ms") / 1000, request.remaining_seconds)


def parse_query(raw_query: bytes) -> Query:
    """Parse the query string of /predict.

    Raises:
        BadRequest: a parameter is malformed, unknown, or comes twice.
    """
    return _parse_again(raw_query) if len(raw_query) <= _REMEMBERED_BYTES else _parse(raw_query)


def _parse(raw_query: bytes) -> Query:
    pairs = parse_qsl(raw_query.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs) or not set(given) <= set(PARAMETERS):
        names = [name for name, _ in pairs]
        raise BadRequest(f"query parameters must be of {', '.join(PARAMETERS)}, each at most once. Given: {names}")
    if given.get("priority", "normal") not in PRIORITIES:
        raise BadRequest(f"priority must be one of {', '.join(PRIORITIES)}. Given: {given['priority']!r}")
    return Query(
        model=given.get("model"),
        version=given.get("version"),
        top_k=whole_number(given["top_k"], "top_k") if "top_k" in given else None,
        probabilities=_boolean(given, "probabilities"),
        show_input=_boolean(given, "show_input"),
        abstain=_boolean(given, "abstain"),
        coverage=_coverage(given["coverage"]) if "coverage" in given else None,
        split=_boolean(given, "split"),
        bulk=given.get("priority") == "bulk",
    )


_REMEMBERED_BYTES = 256
"""Longer queries are parsed each time: what clients choose must not fill the memory."""

_parse_again = lru_cache(maxsize=1024)(_parse)


def media_type(content_type: str) -> str:
    """Return `image/png` for `image/png; charset=binary`."""
    return content_type.partition(";")[0].strip().lower()


def whole_number(text: str, name: str) -> int:
    """Parse a parameter's or header's value, at least 1.

    Raises:
        BadRequest: it is something else.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise BadRequest(f"{name} must be a whole number of at least 1. Given: {text[:40]!r}")
    return int(text)


def _coverage(text: str) -> float:
    value = float(text) if _DECIMAL.fullmatch(text) else 0.0
    if not LEAST_COVERAGE <= value <= MOST_COVERAGE:
        raise BadRequest(f"coverage must be from {LEAST_COVERAGE:g} to {MOST_COVERAGE:g}. Given: {text[:40]!r}")
    return value


def _boolean(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text.lower() not in _BOOLEANS:
        raise BadRequest(f"{name} must be true or false. Given: {text[:40]!r}")
    return _BOOLEANS[text.lower()]
