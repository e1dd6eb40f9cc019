"""HTTP/1.1 for the request that comes all the time: a whole POST /predict in one piece, on a connection at rest.

It goes straight to its handler: its head is parsed once and remembered, there are no ASGI messages, no task and one
write. Everything else (bodies in parts or chunks, other paths, pipelining, Expect, Upgrade, HTTP/1.0, whatever is
malformed) is uvicorn's, on the same connection, and ends in the same handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import lru_cache, partial
from typing import Any, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.asgi import find_header
from service.api.request import Head, Request
from service.api.response import Header, Response, problem_response
from service.api.router import Handler
from service.problems import ClientGone, RequestTimeout

logger = logging.getLogger(__name__)

PATH = b"/predict"

_MAX_HEAD_BYTES = 2048
_HEADS = 2048  # remembered; one for each length of a body that each kind of client sends


class _WholeHead(NamedTuple):
    """The head of a request that may take the short way, and the length of its body."""

    head: Head
    body_bytes: int


@lru_cache(_HEADS)
def read_head(raw: bytes) -> _WholeHead | None:
    """Parse a head without its empty line; None if the request must go the long way."""
    found = _HeadParser()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(raw + b"\r\n\r\n")
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    names = {name for name, _ in found.headers}
    is_plain = (
        found.is_complete
        and parser.get_method() == b"POST"
        and parser.get_http_version() == "1.1"
        and parser.should_keep_alive()
        and b"content-length" in names
        and not names & {b"transfer-encoding", b"expect", b"upgrade"}
    )
    if not is_plain:
        return None
    url = httptools.parse_url(found.url)
    if url.path != PATH:
        return None
    lengths = [int(value) for name, value in found.headers if name == b"content-length"]
    head = Head("POST", PATH.decode(), url.query or b"", partial(find_header, tuple(found.headers)))
    return _WholeHead(head, lengths[0])


class _HeadParser:
    """The callbacks of httptools' parser."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[Header] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_complete = True


class FastPathProtocol(HttpToolsProtocol):
    """A client's connection. It is the client, too: it knows when that has gone.

    A head that is not whole after `head_seconds` is given up; bodies have a `BodyReader` for that.
    """

    def __init__(self, handle: Handler, max_body_bytes: int, head_seconds: float, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.disconnected = False
        self._handle = handle
        self._max_body_bytes = max_body_bytes
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._amid_message = False  # uvicorn's parser has seen the start of a request and not its end
        self._answering: Coroutine[Any, Any, Response] | None = None
        self._held = bytearray()  # what came while a request on the short way was being answered
        self._closes = False
        self._at_rest_since = 0.0  # when the last answer on the short way was sent, on the loop's clock

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._answering:
            self._held += data
            self.flow.pause_reading()
        elif not self._take_short_way(data):
            super().data_received(data)

    def _take_short_way(self, data: bytes) -> bool:
        """Begin to answer the request in `data` if it is whole, plain and alone."""
        if self._amid_message or (self.cycle and not self.cycle.response_complete) or self.flow.write_paused:
            return False
        raw_head, _, body = data.partition(b"\r\n\r\n")
        announced = read_head(raw_head) if len(raw_head) <= _MAX_HEAD_BYTES else None
        if announced is None or len(body) != announced.body_bytes or len(body) > self._max_body_bytes:
            return False
        self._answering = self._handle(Request(announced.head, self, body))
        self._go_on()
        return True

    def _go_on(self, _: asyncio.Future[Any] | None = None) -> None:
        """Run the handler to where it waits next: as asyncio.Task does, at once and without its costs."""
        assert self._answering  # noqa: S101 - narrows the type
        try:
            future = self._answering.send(None)
        except StopIteration as end:
            self._respond(end.value)
        except ClientGone:
            self._answering = None
        except BaseException:
            self.transport.abort()
            raise
        else:
            future._asyncio_future_blocking = False  # how an awaited future is taken over from its `__await__`
            future.add_done_callback(self._go_on)

    def _respond(self, response: Response) -> None:
        self._answering = None
        self.server_state.total_requests += 1
        if self.disconnected or self.transport.is_closing():
            return
        self.transport.write(_serialise(response, closes=self._closes))
        if self._closes:
            self.transport.close()
            return
        self._at_rest_since = self.loop.time()
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            self.flow.resume_reading()
            self.data_received(held)

    # What uvicorn tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        # uvicorn lets a client that never says a word stay for ever.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been at rest for long enough; the short way, which sets no timer, puts it off."""
        rest = self.loop.time() - self._at_rest_since
        if self._answering:
            rest = 0.0
        if rest >= self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        else:
            wait = self.timeout_keep_alive - rest
            self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected = True
        self._unset_keepalive_if_required()
        self._unset_head_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._amid_message = True
        self._unset_head_timer()
        self._head_timer = self.loop.call_later(self._head_seconds, self._give_up_head)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unset_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._amid_message = False
        super().on_message_complete()

    def _unset_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        if self.transport.is_closing():
            return
        if not self.cycle or self.cycle.response_complete:  # else another request's answer is under way
            late = f"the request's head must come within {self._head_seconds:g} s. Given: a slower one"
            self.transport.write(_serialise(problem_response(RequestTimeout(late)), closes=True))
        self.transport.close()

    def shutdown(self) -> None:
        """Close once what is being answered is."""
        if self._answering:
            self._closes = True
        else:
            super().shutdown()


def _serialise(response: Response, *, closes: bool) -> bytes:
    parts = [_start(response.status, response.media_type, response.shared_headers)]
    for name, value in response.headers:
        parts += (name, b": ", value, b"\r\n")
    if closes:
        parts.append(b"connection: close\r\n")
    parts += (b"content-length: %d\r\n\r\n" % len(response.body), response.body)
    return b"".join(parts)


@lru_cache(256)
def _start(status: int, media_type: bytes, headers: tuple[Header, ...]) -> bytes:
    """Return the beginning of an answer, which many answers share."""
    lines = [b"content-type: %b\r\n" % media_type, *(b"%b: %b\r\n" % header for header in headers)]
    return STATUS_LINE[status] + b"".join(lines)
