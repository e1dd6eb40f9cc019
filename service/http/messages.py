"""A request as it was read, and an answer as it is written."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Protocol

from service.problems import MEDIA_TYPE, ClientGone, Problem

Header = tuple[bytes, bytes]

_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


class Client(Protocol):
    """Who waits for an answer."""

    @property
    def disconnected(self) -> bool:
        """Whether the client has left, so that nobody waits any more."""
        ...


class Request:
    """A request whose head is valid. Its body is set once it has come whole.

    `headers` has the names in lower case; `arrived` is when the head was read, on time.monotonic()'s clock.
    """

    body = b""
    max_body_bytes = 0
    """Set by the connection; whoever checks the head may lower it."""
    parameters: Mapping[str, str] = _NO_PARAMETERS
    """The parts of the path that vary, by the names that a route gives them."""
    route: Any = None
    """What answers the request; the application's own."""
    context: Any = None
    """What was found out from the head; the route's own."""
    caller: Any = None
    """Who asks, if the application knows it; has a `name`."""
    trace: Any = None
    """The trace that the request belongs to; the application's own."""
    _id = b""

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        client: Client,
        *,
        raw_query: bytes = b"",
        is_http_1_0: bool = False,
        remaining_seconds: float = math.inf,
    ) -> None:
        self.arrived = time.monotonic()
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.headers = headers
        self.client = client
        self.is_http_1_0 = is_http_1_0
        self.remaining_seconds = remaining_seconds
        """A deadline that the transport itself knows of."""

    def header(self, name: str) -> str | None:
        """Return the value of the header `name` (lower case), which may be '', or None if there is none."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def id(self) -> str:
        """The id that the request came with or, if it has none that can be sent back, a new one."""
        return self.id_header()[1].decode()

    def id_header(self) -> Header:
        """Return the header that gives the id back to the client."""
        if not self._id:
            given = self.headers.get(b"x-request-id")
            if given is None or not _ID.fullmatch(given):
                given = b"%b-%x" % (_process(), next(_numbers))
            self._id = given
        return (b"x-request-id", self._id)


_ID = re.compile(rb"[ -~]{1,128}")
_numbers = itertools.count(1)


@lru_cache(maxsize=1)
def _process() -> bytes:
    """Return what tells this process's ids from those of others; first called after the fork."""
    return os.urandom(4).hex().encode()


class Later:
    """An answer that will come without a task of its own; `reply` is then called with it, once.

    It is called with None if nobody can be answered any more.
    """

    __slots__ = ("reply",)

    def __init__(self) -> None:
        self.reply: Callable[[Response | None], None]
        """To be set by who waits, before the event loop's next turn."""

    def cancel(self) -> None:
        """Take note that nobody waits any more: `reply` must not be called."""
        raise NotImplementedError

    async def wait(self) -> Response:
        """Return the answer to who awaits it, in place of `reply`.

        Raises:
            ClientGone: nobody can be answered any more.
        """
        coming: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        self.reply = coming.set_result
        try:
            response = await coming
        except asyncio.CancelledError:
            self.cancel()
            raise
        if response is None:
            raise ClientGone
        return response


class Response:
    """A whole answer; `shared_headers` are those that many answers have in common."""

    __slots__ = ("body", "headers", "media_type", "shared_headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        media_type: bytes = b"application/json",
        headers: tuple[Header, ...] = (),
        shared_headers: tuple[Header, ...] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.media_type = media_type
        self.headers = headers
        self.shared_headers = shared_headers

    def with_header(self, header: Header) -> Response:
        """Return the same answer with one header more; some answers are kept and given again."""
        return Response(self.status, self.body, self.media_type, (*self.headers, header), self.shared_headers)


def problem_response(problem: Problem, *headers: Header) -> Response:
    """Return `problem` as RFC 9457 problem details."""
    return Response(problem.status, problem.body(), MEDIA_TYPE.encode(), (*headers, *problem_headers(problem)))


def problem_headers(problem: Problem) -> tuple[Header, ...]:
    """Return the headers that belong to a problem, such as Retry-After."""
    return tuple((name.encode(), value.encode("latin-1")) for name, value in problem.headers.items())


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Writer:
    """Turns answers into bytes. The date is formatted once a second at most: `tick` must be called about as often."""

    def __init__(self) -> None:
        self._date = b""
        self.tick()

    def tick(self) -> None:
        """Bring the Date header up to date."""
        self._date = b"date: %b\r\n" % formatdate(usegmt=True).encode()

    def serialise(self, response: Response, *, closes: bool = False, head_only: bool = False) -> bytes:
        """Return the bytes of an answer; with `head_only`, as HEAD asks, those without its body."""
        status, body = response.status, response.body
        parts = [_start(status, response.media_type, response.shared_headers), self._date]
        for name, value in response.headers:
            parts += (name, b": ", value, b"\r\n")
        if closes:
            parts.append(b"connection: close\r\n")
        if status in _WITHOUT_BODY:
            parts.append(b"\r\n")
        else:
            parts.append(b"content-length: %d\r\n\r\n" % len(body))
            if not head_only:
                parts.append(body)
        return b"".join(parts)


_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


@lru_cache(256)
def _start(status: int, media_type: bytes, headers: tuple[Header, ...]) -> bytes:
    """Return what answers of a kind begin with."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    if media_type:
        lines.append(b"content-type: %b\r\n" % media_type)
    lines += [b"%b: %b\r\n" % header for header in headers]
    return b"".join(lines)
