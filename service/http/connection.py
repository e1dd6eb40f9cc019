"""One client's connection: requests are answered in their order, and every state that it can be in has an end.

Knows nothing about what a path means: that is `Application`'s business.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from service.http.content_encoding import decoded_at_once, decoded_body, is_encoded
from service.http.limits import Limits
from service.http.messages import CONTINUE, Later, Request, Response, Writer
from service.http.reader import Refused, RequestReader
from service.problems import ClientGone, Problem, RequestTimeout, Unavailable

logger = logging.getLogger(__name__)

_NEVER = float("inf")

_SMALL_BODY_BYTES = 64 * 1024
"""A body up to this size is read however much other clients send."""

_TURN_SECONDS = 0.05
"""For which requests that have come together are answered in one go; then timers, and with them the heartbeat, have
their turn. 2,500 drawings that came together kept a process from it for 5 s, and it was killed."""

_DECOMPRESSED_AT_A_TIME = 2
"""Large bodies, on threads: what is more waits compressed. 16 KB can be 16 MB, which take 47 ms."""


class Application(Protocol):
    """What answers requests."""

    def check(self, request: Request) -> None:
        """Refuse a request by its head, before its body is read; may lower `request.max_body_bytes`.

        Raises:
            Problem: the request is refused.
        """
        ...

    def answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        """Answer a request whose body has been read; must raise nothing but, in a coroutine, ClientGone.

        What comes later is cancelled if the client leaves.
        """
        ...

    def refusal(self, request: Request | None, problem: Problem) -> Response:
        """Return the answer to a request that cannot be answered otherwise; None if its head could not be read."""
        ...

    def left(self, request: Request) -> None:
        """Note that the client left after `check` and before its body was there, whole and decompressed."""
        ...


class Connections:
    """All connections of one process, and what they share."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.writer = Writer()
        self.bodies_bytes = 0
        """Bytes of bodies that are being read or answered."""
        self.is_closing = False
        """Whether connections end with the answers to what was read."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when there is one more or one less."""
        self.decompressing = asyncio.Semaphore(_DECOMPRESSED_AT_A_TIME)
        self._turn_ends = 0.0  # on time.monotonic()'s clock; 0 before the first answer since the loop turned
        self._due: dict[Connection, None] = {}  # what must wait until it turns again, in their order
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def make(self) -> Connection:
        """Make a connection, as asyncio's `create_server` asks for each client."""
        return Connection(self)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self.on_change()

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.on_change()

    def may_answer(self, connection: Connection) -> bool:
        """Return whether a connection may have a request answered now; if not, it is told to go on soon."""
        now = time.monotonic()
        if not self._turn_ends:
            self._turn_ends = now + _TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._next_turn)
        elif now >= self._turn_ends:
            self._due[connection] = None
            return False
        return True

    def _next_turn(self) -> None:
        self._turn_ends = 0.0
        if self._due:
            due, self._due = self._due, {}
            for connection in due:
                connection.go_on()

    def sweep(self, now: float) -> None:
        """End what is over its time at `now`, on the loop's clock; to be called a few times a second.

        One look at every connection costs less than a timer for each request.
        """
        self.writer.tick()
        for connection in [late for late in self._open if late.deadline <= now]:
            connection.time_is_up()

    def close_idle(self) -> None:
        """Close the connections on which no request has begun."""
        for connection in list(self._open):
            connection.close_when_idle()

    def abort(self) -> None:
        """Cut off every connection."""
        for connection in list(self._open):
            connection.abort()


class Connection:
    """Reads requests, has each answered and writes the answer; the later ones of a pipeline wait for their turn.

    It is the `Client` of its requests: it knows when that has left. It is what asyncio calls a protocol, too, but not
    derived from asyncio's class, which would keep its attributes in a dictionary when it is compiled.
    """

    def __init__(self, connections: Connections) -> None:
        self.disconnected = False
        self.deadline = _NEVER
        """When the present state must have ended, on the loop's clock."""
        self._connections = connections
        self._limits = connections.limits
        self._application = connections.application
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader = RequestReader(
            connections.limits,
            self,
            on_head=self._head_is_read,
            on_request=self._request_is_read,
            on_refused=self._request_is_refused,
        )
        self._head: Request | None = None  # the last one that was read, for the shape of a refusal
        self._waiting: collections.deque[tuple[Request, bool, Response | None]] = collections.deque()
        self._refusal: Response | None = None  # to be sent after those
        self._answering: Request | None = None
        self._coming: Later | asyncio.Task[Response] | None = None
        self._keeps_alive = True
        self._held_bytes = 0  # of bodies, as `Connections.bodies_bytes` counts them
        self._reading_is_paused = False
        self._writing_is_paused = False
        self._is_lingering = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._connections.opened(self)
        self._set_deadline()

    def connection_lost(self, _error: Exception | None) -> None:
        self.disconnected = True
        self._connections.closed(self)
        if self._head and not self._is_lingering:
            self._application.left(self._head)
        for request, _, refusal in self._waiting:
            if refusal is None:
                self._application.left(request)
        self._waiting.clear()
        self._hold(0)
        if self._coming:
            self._coming.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering or self._refusal:
            return
        reader = self._reader
        was_behind, was_in_head = self._is_behind, reader.in_head
        try:
            reader.feed(data)
        except Refused as refused:
            self._refuse(refused.problem)
            return
        if not self._is_behind:
            if reader.in_body:
                self._body_has_grown()
            elif reader.in_head and not was_in_head and not self._writing_is_paused:
                self._set_deadline()
        elif (was_behind or self._waiting) and not self._reading_is_paused:
            # A client that sends ahead is not read on: what waits is bounded by what one read brought.
            self._reading_is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Close: a client that sends no more has left, whether or not it still reads."""
        return False

    def pause_writing(self) -> None:
        self._writing_is_paused = True
        self._set_deadline()

    def resume_writing(self) -> None:
        self._writing_is_paused = False
        self.go_on()

    @property
    def _is_behind(self) -> bool:
        """Whether requests that were read are not answered: that one waits, or those before it are not taken."""
        return self._answering is not None or bool(self._waiting)

    # What the reader calls

    def _head_is_read(self, request: Request) -> None:
        self._head = request
        self._application.check(request)
        if not self._is_behind and not self._writing_is_paused:
            self.deadline = self._loop.time() + self._limits.body_seconds

    def _request_is_read(self, request: Request, keeps_alive: bool, refusal: Response | None = None) -> None:
        self._head = None
        self._waiting.append((request, keeps_alive, refusal))
        if self._answering is None:
            self.go_on()

    def _request_is_refused(self, request: Request, keeps_alive: bool, problem: Problem) -> None:
        """Refuse a request of which nothing is to come: to connect again would cost both sides more than the answer."""
        self._request_is_read(request, keeps_alive, self._application.refusal(request, problem))

    def _body_has_grown(self) -> None:
        size = self._reader.body_bytes
        self._hold(size)
        if size > _SMALL_BODY_BYTES and self._connections.bodies_bytes > self._limits.max_bodies_bytes:
            self._refuse(self._no_room())
        elif self._reader.awaits_continue:
            self._reader.awaits_continue = False
            self._transport.write(CONTINUE)

    def _no_room(self) -> Unavailable:
        most = self._limits.max_bodies_bytes
        return Unavailable(f"bodies being read must be at most {most:,} bytes together. Given: more")

    def _hold(self, size: int) -> None:
        """Count `size` bytes of bodies as this connection's."""
        self._connections.bodies_bytes += size - self._held_bytes
        self._held_bytes = size

    # Answering

    def go_on(self) -> None:
        """Answer what waits, as far as that needs no waiting; then read on."""
        while self._answering is None and not self._writing_is_paused and not self.disconnected:
            if not self._waiting:
                self._read_on()
                return
            if not self._connections.may_answer(self):
                return
            request, self._keeps_alive, refusal = self._waiting.popleft()
            self._hold(len(request.body))
            answer = refusal or self._answer(request)
            if isinstance(answer, Response):
                self._send(request, answer)
                continue
            self._answering = request
            self.deadline = _NEVER  # the application has deadlines of its own
            if isinstance(answer, Later):
                answer.reply = self._reply
                self._coming = answer
            else:
                self._coming = task = self._loop.create_task(answer)
                task.add_done_callback(self._answered)

    def _answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        """Have a request answered, as `Application.answer` does, once its body is as it was before it was encoded."""
        if is_encoded(request):
            try:
                body = decoded_at_once(request)
            except Problem as problem:
                return self._application.refusal(request, problem)
            if body is None:
                return self._decompress_and_answer(request)
            request.body = body
        return self._application.answer(request)

    async def _decompress_and_answer(self, request: Request) -> Response:
        """Do the same with a body that is large, as soon as it is its turn and there is room for it."""
        application, seconds = self._application, self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds), self._connections.decompressing:
                request.body = await asyncio.to_thread(decoded_body, request)
        except Problem as problem:
            return application.refusal(request, problem)
        except TimeoutError:
            return application.refusal(
                request, Unavailable(f"the body must be decompressed within {seconds:g} s. Given: others before it")
            )
        except asyncio.CancelledError:
            application.left(request)
            raise
        self._hold(len(request.body))
        if self._connections.bodies_bytes > self._limits.max_bodies_bytes:
            return application.refusal(request, self._no_room())
        answer = application.answer(request)
        if isinstance(answer, Response):
            return answer
        return await (answer.wait() if isinstance(answer, Later) else answer)

    def _answered(self, task: asyncio.Task[Response]) -> None:
        gone = task.cancelled() or isinstance(task.exception(), ClientGone)
        self._reply(None if gone else task.result())

    def _reply(self, response: Response | None) -> None:
        request, self._answering, self._coming = self._answering, None, None
        if self.disconnected or request is None or response is None:
            self._transport.close()
            return
        self._send(request, response)
        self.go_on()

    def _send(self, request: Request, response: Response) -> None:
        connections = self._connections
        closes = not self._keeps_alive or (connections.is_closing and not (self._waiting or self._refusal))
        head_only = request.method == "HEAD"
        self._transport.write(connections.writer.serialise(response, closes=closes, head_only=head_only))
        if closes:
            self._transport.close()
            self.disconnected = True

    def _read_on(self) -> None:
        """Return to reading, for everything that was read has been answered."""
        if self._refusal:
            self._send_refusal(self._refusal)
            return
        self._hold(0)
        self._set_deadline()
        if self._reading_is_paused:
            self._reading_is_paused = False
            self._transport.resume_reading()
        if self._reader.in_body:
            self._body_has_grown()

    # Refusing and closing

    def _refuse(self, problem: Problem) -> None:
        """Answer with `problem`, after what was read before, and end the connection."""
        response = self._application.refusal(self._head, problem)
        if self._answering or self._waiting or self._writing_is_paused:
            self._refusal = response
        else:
            self._send_refusal(response)

    def _send_refusal(self, response: Response) -> None:
        head_only = self._head is not None and self._head.method == "HEAD"
        self._hold(0)
        self._transport.write(self._connections.writer.serialise(response, closes=True, head_only=head_only))
        # To close while the client sends would have its system drop the answer: read on, and throw away.
        self._is_lingering = True
        self._transport.write_eof()
        if self._reading_is_paused:
            self._transport.resume_reading()
        self.deadline = self._loop.time() + self._limits.linger_seconds

    def _set_deadline(self) -> None:
        """Begin the time of the state that the connection has come into."""
        now, limits, reader = self._loop.time(), self._limits, self._reader
        if self._writing_is_paused:
            self.deadline = now + limits.write_seconds
        elif self._answering is not None:
            self.deadline = _NEVER
        elif reader.in_head:
            self.deadline = now + limits.head_seconds
        elif reader.in_body:
            self.deadline = now + limits.body_seconds
        else:
            self.deadline = now + limits.idle_seconds

    def time_is_up(self) -> None:
        """End the state that is over its deadline."""
        limits, reader = self._limits, self._reader
        if self._is_lingering or self._writing_is_paused:
            self._transport.abort()
        elif reader.in_head:
            late = f"the request's head must come within {limits.head_seconds:g} s. Given: a slower one"
            self._refuse(RequestTimeout(late))
        elif reader.in_body:
            self._refuse(RequestTimeout(f"the body must come within {limits.body_seconds:g} s. Given: a slower one"))
        else:
            self._transport.close()
            self.deadline = _NEVER

    def close_when_idle(self) -> None:
        """Close now, or once the request that has begun is answered."""
        if not (self._answering or self._waiting or self._reader.in_head or self._reader.in_body):
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()
