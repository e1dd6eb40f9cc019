"""The service as an ASGI application: requests and answers as ASGI's messages. Knows nothing about their content."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any, cast

from service.api.request import Head, Request
from service.api.response import Header, Response
from service.api.router import Router
from service.engine.queues import Client
from service.problems import ClientGone, RequestTimeout, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApplication:
    """The application that an ASGI server calls for each request."""

    def __init__(self, router: Router, bodies: BodyReader) -> None:
        self._router = router
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the application speaks HTTP alone. Given: {scope['type']}")
        read = partial(self._bodies.read, scope, receive)
        request = Request(head_of(scope), client_behind(receive), read)
        try:
            response = await self._router.handle(request)
        except ClientGone:
            return
        await send_response(send, response)


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
        """Return the body of a request that began at `started`, on time.monotonic()'s clock.

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


def head_of(scope: Scope) -> Head:
    """Return the head of the request that `scope` describes."""
    return Head(scope["method"], scope["path"], scope["query_string"], partial(find_header, scope["headers"]))


def find_header(headers: Sequence[Header], name: str) -> str | None:
    """Return the value of the header `name` (lower case), which may be '', or None."""
    wanted = name.encode()
    for key, value in headers:
        if key == wanted:
            return bytes(value).decode("latin-1")
    return None


class _PresentClient:
    """A client of a server that does not say when it leaves."""

    disconnected = False


def client_behind(receive: Receive) -> Client:
    """Return who waits for the answer: uvicorn's `receive` is a method of an object that knows when it leaves."""
    cycle = getattr(receive, "__self__", None)
    return cast("Client", cycle) if hasattr(cycle, "disconnected") else _PresentClient()


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        TooLarge: the length in the header, or what has come so far, is over `max_bytes`.
        ClientGone: there is nobody to answer.
    """
    declared = find_header(scope["headers"], "content-length")
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


async def send_response(send: Send, response: Response) -> None:
    """Send a whole answer."""
    own = [(b"content-type", response.media_type), (b"content-length", b"%d" % len(response.body))]
    headers = [*own, *response.headers, *response.shared_headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
