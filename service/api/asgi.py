"""What the prediction routes need of HTTP, straight on ASGI: a framework's request costs more than a model's call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple

from service import problems
from service.problems import BadRequest, ClientGone, Problem, RequestTimeout, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

Read = Callable[[float], Awaitable[bytes]]
"""Gives the body of a request that began at a time on time.monotonic()'s clock; raises as `BodyReader.read`."""


class Response(NamedTuple):
    """A whole answer; `shared_headers` are those that many answers have in common."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()
    shared_headers: tuple[Header, ...] = ()


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the header `name` (lower case), which may be '', or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The request's body.

    Raises:
        TooLarge: the length in the header, or what has come so far, is over `max_bytes`.
        ClientGone: there is nobody to answer.
    """
    declared = header(scope, b"content-length")
    if declared and int(declared) > max_bytes:  # the HTTP parser has refused what is no number
        raise TooLarge(f"the body must be at most {max_bytes:,} bytes. Given: {int(declared):,}")
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise TooLarge(f"the body must be at most {max_bytes:,} bytes. Given: more")
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class BodyReader:
    """Reads bodies of at most `max_bytes`, and gives up on those that take longer than `seconds`.

    `sweep` must be called now and then: one look at all that is being read costs less than a timer for each.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()

    async def read(self, scope: Scope, receive: Receive, started: float) -> bytes:
        """The body of a request that began at `started`, on time.monotonic()'s clock.

        Raises:
            RequestTimeout: it did not come in time.
            TooLarge, ClientGone: as `read_body`.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body must be read inside a task. Given: none")
        self._reading[task] = started + self._seconds
        try:
            return await read_body(scope, receive, self._max_bytes)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise RequestTimeout(f"the body must come within {self._seconds:g} s. Given: a slower one") from None
        finally:
            del self._reading[task]
            self._late.discard(task)

    def sweep(self, now: float) -> None:
        """Give up on the bodies that are late at `now`."""
        for task, deadline in self._reading.items():
            if deadline <= now and task not in self._late:
                self._late.add(task)
                task.cancel()


async def send_response(send: Send, response: Response) -> None:
    """Send a whole answer."""
    own = [(b"content-type", response.media_type), (b"content-length", b"%d" % len(response.body))]
    headers = [*own, *response.headers, *response.shared_headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def problem_response(problem: Problem, *headers: Header) -> Response:
    """`problem` as RFC 9457 problem details."""
    own = [(name.encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return Response(problem.status, problem.body(), problems.MEDIA_TYPE.encode(), (*headers, *own))


@lru_cache(1024)
def media_type(content_type: str) -> str:
    """`image/png` of `image/png; charset=binary`."""
    return content_type.partition(";")[0].strip().lower()


def whole_number(text: str, name: str) -> int:
    """A parameter's or header's value, at least 1.

    Raises:
        BadRequest: it is something else.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise BadRequest(f"{name} must be a whole number of at least 1. Given: {text[:40]!r}")
    return int(text)
