"""Connections over real sockets: order, refusals, and an end to everything that a client may leave open."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from service.http import connection
from service.http.acceptor import Balance
from service.http.content_encoding import decoded_body
from service.http.limits import Limits
from service.http.messages import Later, Request, Response, problem_response
from service.http.server import HTTPServer
from service.problems import NotFound, Problem

WITHIN = 10.0  # seconds; far more than anything here takes
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Called(Later):
    """An answer that is not awaited but called for."""

    def __init__(self, echo: Echo, request: Request) -> None:
        self.task = asyncio.create_task(echo.call(self, request))

    def cancel(self) -> None:
        self.task.cancel()


@pytest.fixture(params=["later", "called"])
def later(request: pytest.FixtureRequest) -> bytes:
    """Return the path of an answer that waits for `go`, as a coroutine or as a call."""
    return str(request.param).encode()


class Echo:
    """Answers with the path and the body; /later and /called wait for `go`, /no is refused by its head."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.large = b""
        self.was_left: list[str] = []
        self.checked = 0

    def check(self, request: Request) -> None:
        self.checked += 1
        if request.path == "/no":
            raise NotFound("the path must be another. Given: /no")
        if request.path == "/small":
            request.max_body_bytes = 10

    def answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        if request.path == "/large":
            return Response(200, self.large)
        if request.path == "/called":
            return Called(self, request)
        return self._later(request) if request.path == "/later" else _echo(request)

    async def _later(self, request: Request) -> Response:
        self.waiting.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return _echo(request)

    async def call(self, later: Called, request: Request) -> None:
        await self._later(request)
        later.reply(_echo(request))

    def left(self, request: Request) -> None:
        self.was_left.append(request.path)

    def refusal(self, request: Request | None, problem: Problem) -> Response:
        return problem_response(problem, (b"x-of", request.path.encode() if request else b"no request"))


def _echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.path} ".encode() + request.body, b"text/plain")


class Client:
    """A client that sends bytes and sees what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> tuple[int, str, bytes]:
        """Give the next answer: status, head, body."""
        async with asyncio.timeout(WITHIN):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = None if head_only else re.search(r"content-length: (\d+)", head)
            return int(head[9:12]), head, await self.reader.readexactly(int(length[1]) if length else 0)

    async def rest(self) -> bytes:
        """Give all that comes until the server closes."""
        async with asyncio.timeout(WITHIN):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def serving(
    application: Echo, *, shutdown_seconds: float = 5.0, **limits: Any
) -> AsyncIterator[tuple[Callable[[], Coroutine[Any, Any, Client]], asyncio.Event]]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    stop = asyncio.Event()
    defaults: dict[str, Any] = {"max_body_bytes": 1 << 20, "max_bodies_bytes": 1 << 22, "linger_seconds": 0.3}
    server = HTTPServer(application, Limits(**(defaults | limits)), Balance(1), 0)
    running = asyncio.create_task(server.run(listener, stop, shutdown_seconds=shutdown_seconds))
    clients = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection(*address))
        clients.append(client)
        return client

    try:
        yield connect, stop
    finally:
        for client in clients:
            client.writer.close()
        stop.set()
        await asyncio.wait_for(running, WITHIN)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_requests_of_a_pipeline_are_answered_in_their_order_with_a_date_each(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(GET % later, POST % (b"a", 3) + b"abc" + GET % b"b" + GET % b"c")
            await echo.waiting.wait()
            echo.go.set()

            answers = [await client.answer() for _ in range(4)]

        assert [body for *_, body in answers] == [b"GET /%s " % later, b"POST /a abc", b"GET /b ", b"GET /c "]
        assert all("\r\ndate: " in head for _, head, _ in answers)

    run(scenario)


def test_head_gets_the_head_of_get() -> None:
    async def scenario() -> None:
        async with serving(Echo()) as (connect, _):
            client = await connect()
            await client.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

            answer = await client.rest()

        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-length: 8\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")

    run(scenario)


def test_a_client_that_asks_whether_to_send_its_body_is_told_so_or_refused() -> None:
    async def scenario() -> None:
        async with serving(Echo()) as (connect, _):
            client = await connect()
            await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            told = await client.reader.readuntil(b"\r\n\r\n")
            await client.send(b"abc")
            answered = await client.answer()
            await client.send(b"POST /no HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            refused = await client.answer()

        assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert answered[::2] == (200, b"POST /a abc")
        assert refused[0] == 404

    run(scenario)


@pytest.mark.parametrize(
    ("sent", "status", "of"),
    [
        (POST % (b"no", 1 << 19), 404, "/no"),
        (POST % (b"small", 11), 413, "/small"),
        (POST % (b"a", 1 << 21), 413, "/a"),
        (b"GET /a HTTP/1.1\r\n\r\n", 400, "no request"),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending_and_nothing_it_sends_is_a_request(
    sent: bytes, status: int, of: str
) -> None:
    async def scenario() -> None:
        async with serving(Echo()) as (connect, _):
            client = await connect()
            await client.send(sent)
            found = await client.answer()
            await client.send(GET % b"smuggled", b"x" * 100_000)

            rest = await client.rest()

        assert (found[0], rest) == (status, b"")
        assert f"x-of: {of}\r\n" in found[1]
        assert "connection: close\r\n" in found[1]

    run(scenario)


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(GET % b"no", id="without a body"),
        pytest.param(POST % (b"no", len(GET % b"smuggled")) + GET % b"smuggled", id="with its body"),
        pytest.param(b"HEAD /no HTTP/1.1\r\nHost: x\r\n\r\n", id="without a body in the answer"),
    ],
)
def test_a_request_that_has_come_whole_is_refused_in_its_turn_and_the_connection_goes_on(refused: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        head_only = refused.startswith(b"HEAD")
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(GET % b"later" + refused + GET % b"b")
            await echo.waiting.wait()
            echo.go.set()
            first, second = await client.answer(), await client.answer(head_only=head_only)
            third = await client.answer()
            await client.send(refused + GET % b"c")
            again, last = await client.answer(head_only=head_only), await client.answer()

        assert [found[0] for found in (first, second, third, again, last)] == [200, 404, 200, 404, 200]
        assert (first[2], third[2], last[2]) == (b"GET /later ", b"GET /b ", b"GET /c ")
        assert "x-of: /no\r\n" in second[1]
        assert "connection: close" not in second[1]
        assert echo.was_left == []

    run(scenario)


def test_a_refusal_comes_after_the_answers_to_what_was_sent_before(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(GET % later + b"garbage\r\n\r\n")
            await echo.waiting.wait()
            echo.go.set()

            first, second = await client.answer(), await client.answer()

        assert (first[0], second[0]) == (200, 400)

    run(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"\r\n"], id="an empty line"),
        pytest.param([GET % b"a", b"\r\n"], id="an empty line after an answer"),
        pytest.param([b"GET /a HT"], id="half a head"),
        pytest.param([POST % (b"a", 10), b"abc"], id="half a body"),
        pytest.param([b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"5;x"], id="half a chunk"),
        pytest.param([POST % (b"no", 10), b"a"], id="a refused body"),
        pytest.param([b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n", b"\n"], id="upgrade"),
    ],
)
def test_every_connection_that_a_client_leaves_alone_is_closed(sent: list[bytes]) -> None:
    async def scenario() -> None:
        short = {"idle_seconds": 0.3, "head_seconds": 0.3, "body_seconds": 0.3}
        async with serving(Echo(), **short) as (connect, _):
            client = await connect()
            await client.send(*sent)

            await client.rest()

    run(scenario)


@pytest.mark.parametrize("drip", [b"GET /", POST % (b"a", 1000)], ids=["head", "body"])
def test_a_client_that_sends_a_byte_now_and_then_is_told_that_it_is_late(drip: bytes) -> None:
    async def scenario() -> None:
        async with serving(Echo(), head_seconds=0.5, body_seconds=0.5) as (connect, _):
            client = await connect()
            await client.send(drip)
            answer = asyncio.create_task(client.answer())
            while not answer.done():
                await client.send(b"a")
                await asyncio.sleep(0.05)

            assert (await answer)[0] == 408

    run(scenario)


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    async def scenario() -> None:
        echo = Echo()
        echo.large = bytes(1 << 26)
        async with serving(echo, write_seconds=0.3) as (connect, _):
            client = await connect()
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET % b"large")
            await asyncio.sleep(1.5)
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]

            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.answer()

    run(scenario)


def test_a_client_that_takes_no_answer_is_not_read_on_and_cut_off_though_it_goes_on_sending() -> None:
    async def scenario() -> None:
        echo = Echo()
        echo.large = bytes(32 << 20)  # more than the system's buffers take
        async with serving(echo, write_seconds=0.5) as (connect, _):
            client = await connect()
            await client.send(GET % b"large")
            async with asyncio.timeout(WITHIN):
                with contextlib.suppress(ConnectionError):
                    while True:
                        await client.send((POST % (b"a", 1000) + bytes(1000)) * 10)

        assert echo.checked < 5000  # what one read brings, and not 8 MB a second until there is no memory left

    run(scenario)


@pytest.mark.parametrize("together", [1, 3])
def test_the_loop_turns_between_requests_that_come_together(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(connection, "_TURN_SECONDS", 0.0)
    turns = 0
    began: list[tuple[str, int]] = []

    class Turned(Echo):
        def answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
            began.append((request.path, turns))
            return super().answer(request)

    async def scenario() -> None:
        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with serving(Turned()) as (connect, _):
            clients = [await connect() for _ in range(10)]
            counting = asyncio.create_task(count())
            for number, client in enumerate(clients):
                client.writer.write(b"".join(GET % b"%d-%d" % (number, place) for place in range(together)))
            for client in clients:
                assert [(await client.answer())[0] for _ in range(together)] == [200] * together
            counting.cancel()

    run(scenario)
    assert len({turn for _, turn in began}) == len(began) == 10 * together
    assert [path for path, _ in began if path.endswith("-0")] == [f"/{number}-0" for number in range(10)]


def test_the_work_for_a_client_that_leaves_is_cancelled(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(GET % later)
            await echo.waiting.wait()
            client.writer.close()

            await asyncio.wait_for(echo.cancelled.wait(), WITHIN)

    run(scenario)


def test_the_application_hears_of_a_client_that_leaves_before_its_body_has_come() -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(GET % b"a" + POST % (b"b", 10) + b"abc")
            await client.answer()
            client.writer.close()
            async with asyncio.timeout(WITHIN):
                while not echo.was_left:
                    await asyncio.sleep(0.01)

        assert echo.was_left == ["/b"]

    run(scenario)


def test_a_large_body_is_refused_while_other_bodies_fill_the_process_and_a_small_one_is_not() -> None:
    async def scenario() -> None:
        async with serving(Echo(), max_bodies_bytes=300_000) as (connect, _):
            first, second, third = [await connect() for _ in range(3)]
            await first.send(POST % (b"a", 1 << 20), bytes(250_000))
            await asyncio.sleep(0.1)
            await second.send(POST % (b"a", 200_000), bytes(150_000))
            await third.send(POST % (b"a", 50_000), bytes(50_000))

            refused, answered = await second.answer(), await third.answer()

            first.writer.close()
            await first.writer.wait_closed()
            fourth = await connect()
            await fourth.send(POST % (b"a", 250_000), bytes(250_000))
            freed = await fourth.answer()

        assert refused[0] == 503
        assert "retry-after" in refused[1]
        assert answered[0] == 200
        assert freed[0] == 200

    run(scenario)


def packed(path: bytes, size: int) -> bytes:
    """Return a request whose body is so many zeros, compressed."""
    body = gzip.compress(bytes(size), mtime=0)
    return (POST % (path, len(body)))[:-2] + b"Content-Encoding: gzip\r\n\r\n" + body


def test_a_compressed_body_arrives_decompressed(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        echo.go.set()
        async with serving(echo) as (connect, _):
            client = await connect()
            await client.send(*(packed(path, size) for size in (10, 200_000) for path in (b"a", later)))
            bodies = [(await client.answer())[2].rpartition(b" ")[2] for _ in range(4)]

        assert [len(body) for body in bodies] == [10, 10, 200_000, 200_000]
        assert not any(map(any, bodies))

    run(scenario)


@pytest.mark.parametrize("most", [50_000, 100_000])
def test_a_compressed_body_over_the_limit_or_damaged_is_refused_and_the_next_is_not(most: int) -> None:
    async def scenario() -> None:
        async with serving(Echo(), max_body_bytes=most) as (connect, _):
            client = await connect()
            await client.send(packed(b"a", 200_000), packed(b"a", most).replace(b"\x1f\x8b", b"no"), packed(b"a", 9))
            answers = [await client.answer() for _ in range(3)]

        assert [status for status, *_ in answers] == [413, 400, 200]
        assert "x-of: /a" in answers[1][1]

    run(scenario)


def test_large_bodies_are_decompressed_on_threads_two_at_a_time_and_small_ones_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    go = threading.Event()

    def wait(request: Request) -> bytes:
        begun.append(threading.get_ident())
        assert go.wait(WITHIN)
        return decoded_body(request)

    monkeypatch.setattr(connection, "decoded_body", wait)

    async def scenario() -> None:
        async with serving(Echo()) as (connect, _):
            clients = [await connect() for _ in range(6)]
            for client in clients[:5]:
                await client.send(packed(b"a", 200_000))
            await clients[5].send(packed(b"a", 10))
            assert (await clients[5].answer())[0] == 200
            async with asyncio.timeout(WITHIN):
                while len(begun) < 2:
                    await asyncio.sleep(0.01)
            assert len(begun) == 2
            go.set()

            assert [(await client.answer())[0] for client in clients[:5]] == [200] * 5

        assert threading.get_ident() not in begun

    run(scenario)


def test_decompressed_bodies_that_fill_the_process_are_refused(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo, max_bodies_bytes=300_000) as (connect, _):
            first, second, third = [await connect() for _ in range(3)]
            await first.send(packed(later, 200_000))
            await echo.waiting.wait()
            await second.send(packed(b"a", 200_000))
            await third.send(packed(b"a", 50_000))
            refused, answered = await second.answer(), await third.answer()
            echo.go.set()
            await first.answer()
            await second.send(packed(b"a", 200_000))

            assert [refused[0], answered[0], (await second.answer())[0]] == [503, 200, 200]

    run(scenario)


def test_a_body_that_is_not_decompressed_in_time_is_refused_and_one_whose_client_leaves_is_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    monkeypatch.setattr(connection, "decoded_body", lambda _: go.wait(WITHIN))

    async def scenario() -> None:
        echo = Echo()
        async with serving(echo, body_seconds=0.5) as (connect, _):
            stays, leaves = await connect(), await connect()
            await stays.send(packed(b"stays", 200_000))
            await leaves.send(packed(b"leaves", 200_000))
            await asyncio.sleep(0.1)
            leaves.writer.close()
            status, *_ = await stays.answer()
            go.set()

        assert status == 503
        assert echo.was_left == ["/leaves"]

    run(scenario)


def test_stopping_finishes_what_has_begun_and_closes_what_is_idle(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, stop):
            idle, busy, late = [await connect() for _ in range(3)]
            await idle.send(GET % b"a")
            await idle.answer()
            await busy.send(GET % later)
            await echo.waiting.wait()
            await late.send(POST % (b"a", 3), b"ab")
            await asyncio.sleep(0.1)

            stop.set()
            assert await idle.rest() == b""
            await late.send(b"c")
            echo.go.set()
            answers = [await busy.rest(), await late.rest()]

        assert all(answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer for answer in answers)

    run(scenario)


def test_stopping_answers_those_who_are_connected_and_about_to_ask() -> None:
    async def scenario() -> None:
        async with serving(Echo()) as (connect, stop):
            idle = await connect()
            await idle.send(GET % b"a")
            await idle.answer()
            address = idle.writer.get_extra_info("peername")
            waiting = [socket.create_connection(address) for _ in range(20)]  # which the server has not accepted yet
            stop.set()
            await asyncio.sleep(0)
            for one in waiting:
                one.sendall(GET % b"new")
            await idle.send(GET % b"last")
            clients = [idle, *[Client(*await asyncio.open_connection(sock=one)) for one in waiting]]
            answers = [await client.rest() for client in clients]
            for client in clients[1:]:
                client.writer.close()

            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        assert all(answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer for answer in answers)

    run(scenario)


def test_stopping_answers_all_of_a_pipeline_that_was_read(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo) as (connect, stop):
            client = await connect()
            await client.send(GET % later + GET % b"a" + GET % later + GET % b"b")
            await echo.waiting.wait()
            stop.set()
            await asyncio.sleep(0.2)
            echo.go.set()
            answers = [await client.answer() for _ in range(4)]
            assert await client.rest() == b""

        assert [status for status, *_ in answers] == [200] * 4
        assert ["connection: close" in head for _, head, _ in answers] == [False, False, False, True]

    run(scenario)


def test_stopping_does_not_wait_for_ever(later: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with serving(echo, shutdown_seconds=0.2) as (connect, stop):
            client = await connect()
            await client.send(GET % later)
            await echo.waiting.wait()
            stop.set()

            assert await client.rest() == b""
        assert echo.cancelled.is_set()

    run(scenario)
