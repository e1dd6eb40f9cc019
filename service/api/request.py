"""A request, as every handler sees it. Knows nothing about the server that received it."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl

from service.engine.queues import Client
from service.problems import BadRequest

PRIORITIES = ("normal", "bulk")

_PARAMETERS = ("model", "version", "top_k", "probabilities", "show_input", "priority")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})

Read = Callable[[float], Awaitable[bytes]]
"""Reads the body of a request that began at a time on time.monotonic()'s clock.

Raises RequestTimeout if it does not come in time, TooLarge if it is over the limit, ClientGone if it never will come.
"""


class Query(NamedTuple):
    """The parameters of /predict, of which other protocols give the first two."""

    model: str | None = None
    version: str | None = None
    top_k: int | None = None
    probabilities: bool = False
    show_input: bool = False
    bulk: bool = False


class Head:
    """A request's method, path, query and headers. It is parsed once; requests with equal heads may share it.

    `header` looks a header up by its name in lower case and returns its value, which may be '', or None.
    `remaining_seconds` is a deadline that the transport itself knows of.
    """

    def __init__(
        self,
        method: str,
        path: str,
        raw_query: bytes,
        header: Callable[[str], str | None],
        *,
        remaining_seconds: float = math.inf,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.header = header
        self._remaining_seconds = remaining_seconds

    @cached_property
    def query(self) -> Query:
        """The parameters of /predict; raises BadRequest as `parse_query`."""
        return parse_query(self.raw_query)

    @cached_property
    def content_type(self) -> str:
        return self.header("content-type") or ""

    @cached_property
    def timeout_seconds(self) -> float:
        """The client's own deadline, in seconds from the request's arrival.

        Raises:
            BadRequest: the header is no whole number of milliseconds.
        """
        text = self.header("x-request-timeout-ms")
        own = math.inf if text is None else whole_number(text, "x-request-timeout-ms") / 1000
        return min(own, self._remaining_seconds)

    @cached_property
    def given_id(self) -> str:
        """The id that the request came with, or '' if it has none that can be sent back."""
        text = self.header("x-request-id") or ""
        return text if len(text) <= 128 and text.isascii() and text.isprintable() else ""

    def request_id(self) -> str:
        """Return the given id, or a new one with each call."""
        return self.given_id or f"{_process()}-{next(_numbers):x}"


class Request(NamedTuple):
    """A request; its body is here, or is to be read. `parameters` are those in the path."""

    head: Head
    client: Client
    body: bytes | Read
    parameters: Mapping[str, str] = _NO_PARAMETERS

    async def read_body(self) -> bytes:
        """Return the body; raises what `Read` does."""
        return self.body if isinstance(self.body, bytes) else await self.body(time.monotonic())


@lru_cache(maxsize=1024)
def parse_query(raw_query: bytes) -> Query:
    """Parse the query string of /predict.

    Raises:
        BadRequest: a parameter is malformed, unknown, or comes twice.
    """
    pairs = parse_qsl(raw_query.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs) or not set(given) <= set(_PARAMETERS):
        names = [name for name, _ in pairs]
        raise BadRequest(f"query parameters must be of {', '.join(_PARAMETERS)}, each at most once. Given: {names}")
    if given.get("priority", "normal") not in PRIORITIES:
        raise BadRequest(f"priority must be one of {', '.join(PRIORITIES)}. Given: {given['priority']!r}")
    return Query(
        model=given.get("model"),
        version=given.get("version"),
        top_k=whole_number(given["top_k"], "top_k") if "top_k" in given else None,
        probabilities=_boolean(given, "probabilities"),
        show_input=_boolean(given, "show_input"),
        bulk=given.get("priority") == "bulk",
    )


@lru_cache(1024)
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


def _boolean(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text.lower() not in _BOOLEANS:
        raise BadRequest(f"{name} must be true or false. Given: {text[:40]!r}")
    return _BOOLEANS[text.lower()]


_numbers = itertools.count(1)


@lru_cache(maxsize=1)
def _process() -> str:
    """Return what makes this process's ids differ from other processes'; first called after the fork."""
    return os.urandom(4).hex()
