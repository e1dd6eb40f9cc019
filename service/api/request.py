"""What a prediction request asks for, beside its body: the query's parameters and the headers that matter."""

from __future__ import annotations

import itertools
import math
import os
from functools import cached_property, lru_cache
from typing import NamedTuple, cast
from urllib.parse import parse_qsl

from service.api import asgi
from service.api.asgi import Receive, Scope
from service.engine.queues import Client
from service.problems import BadRequest

PRIORITIES = ("normal", "bulk")

_PARAMETERS = ("model", "version", "top_k", "probabilities", "show_input", "priority")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class Query(NamedTuple):
    """The parameters of /predict; None is what was not given."""

    model: str | None = None
    version: str | None = None
    top_k: int | None = None
    probabilities: bool = False
    show_input: bool = False
    bulk: bool = False


@lru_cache(maxsize=1024)
def parse(query_string: bytes) -> Query:
    """The parameters in a query string.

    Raises:
        BadRequest: one that is malformed, that /predict does not know, or that comes twice.
    """
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs) or not set(given) <= set(_PARAMETERS):
        names = [name for name, _ in pairs]
        raise BadRequest(f"query parameters must be of {', '.join(_PARAMETERS)}, each at most once. Given: {names}")
    if given.get("priority", "normal") not in PRIORITIES:
        raise BadRequest(f"priority must be one of {', '.join(PRIORITIES)}. Given: {given['priority']!r}")
    return Query(
        model=given.get("model"),
        version=given.get("version"),
        top_k=asgi.whole_number(given["top_k"], "top_k") if "top_k" in given else None,
        probabilities=_truth(given, "probabilities"),
        show_input=_truth(given, "show_input"),
        bulk=given.get("priority") == "bulk",
    )


class Head:
    """The head of a request for predictions. What it says is read once; requests that begin alike may share it."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    @cached_property
    def query(self) -> Query:
        """As `parse`, and raises what it does."""
        return parse(self.scope["query_string"])

    @cached_property
    def content_type(self) -> str:
        return asgi.header(self.scope, b"content-type") or ""

    @cached_property
    def timeout_seconds(self) -> float:
        """The client's own deadline, in seconds from the request's arrival.

        Raises:
            BadRequest: the header is no whole number of milliseconds.
        """
        text = asgi.header(self.scope, b"x-request-timeout-ms")
        return math.inf if text is None else asgi.whole_number(text, "x-request-timeout-ms") / 1000

    @cached_property
    def _given_id(self) -> str:
        text = asgi.header(self.scope, b"x-request-id") or ""
        return text if len(text) <= 128 and text.isascii() and text.isprintable() else ""

    def request_id(self) -> str:
        """The id that the request came with, or a new one of ours if it has none that can be sent back."""
        return self._given_id or f"{_process()}-{next(_numbers):x}"


_numbers = itertools.count(1)


@lru_cache(maxsize=1)
def _process() -> str:
    """What sets this process's ids apart from those of others: it is not called before the fork."""
    return os.urandom(4).hex()


class _Present:
    """A client of a server that does not say when it leaves."""

    disconnected = False


def client_behind(receive: Receive) -> Client:
    """Who waits for the answer: uvicorn hands `receive` out as a method of what knows whether the client is there."""
    cycle = getattr(receive, "__self__", None)
    return cast("Client", cycle) if hasattr(cycle, "disconnected") else _Present()


def _truth(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text.lower() not in _TRUTHS:
        raise BadRequest(f"{name} must be true or false. Given: {text[:40]!r}")
    return _TRUTHS[text.lower()]
