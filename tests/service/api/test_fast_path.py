"""A request for /predict takes the short way or uvicorn's, whichever fits it, and is answered the same on both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvicorn
from service.api.asgi import Receive, Scope, Send
from service.api.fast_path import FastPathProtocol, read_head
from uvicorn.server import ServerState

from service.api import asgi
from service.api.request import Request
from service.api.response import Response
from service.engine.queues import Client
from service.problems import ClientGone
from tests.waiting import until

MAX_BODY = 100
SECONDS = 10

PLAIN = b"POST /predict?top_k=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class House:
    """A server of one process, whose handlers tell which way a request came, and a connection to it."""

    def __init__(self) -> None:
        self.protocols: list[FastPathProtocol] = []
        self.clients: list[Client] = []
        self.errors: list[BaseException] = []
        self.gate: asyncio.Future[None] | None = None  # where requests wait, if anywhere
        self.fails = False
        self.rest = b""  # of each answer on the short way
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def short(self, request: Request) -> Response:
        self.clients.append(request.client)
        if self.gate:
            await self.gate
        if self.fails:
            raise RuntimeError("a bug")
        if request.client.disconnected:
            raise ClientGone
        shared = ((b"x-query", request.head.raw_query),)
        assert isinstance(request.body, bytes)
        return Response(
            200, b"short:" + request.body + self.rest, headers=((b"x-way", b"short"),), shared_headers=shared
        )

    async def long(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/early":  # answers before the body has come
            await asgi.send_response(send, Response(429, b"early"))
            return
        body = await asgi.read_body(scope, receive, 10**6)
        if self.gate:
            await self.gate
        await asgi.send_response(send, Response(200, b"long:" + body))

    async def exchange(self, *pieces: bytes) -> bytes:
        """The body of the answer to a request that is sent in pieces."""
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.sleep(0.002)
        return await self.answer()

    async def answer(self) -> bytes:
        self.head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SECONDS)
        if self.head.startswith(b"HTTP/1.1 100"):
            return await self.answer()
        length = int(self.head.partition(b"content-length: ")[2].partition(b"\r")[0])
        return await asyncio.wait_for(self.reader.readexactly(length), SECONDS)

    async def is_closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), SECONDS) == b""


@contextlib.asynccontextmanager
async def living(keep_alive: float = 60, head_seconds: float = 60) -> AsyncIterator[House]:
    house = House()
    config = uvicorn.Config(house.long, interface="asgi3", log_config=None, timeout_keep_alive=keep_alive)  # type: ignore[arg-type]
    state = ServerState()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: house.errors.append(context["exception"]))

    def connected() -> FastPathProtocol:
        protocol = FastPathProtocol(
            house.short, MAX_BODY, head_seconds, config=config, server_state=state, app_state={}
        )
        house.protocols.append(protocol)
        return protocol

    async with await loop.create_server(connected, "127.0.0.1", 0) as server:
        house.reader, house.writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield house
        finally:
            house.writer.transport.abort()
            await until(lambda: not state.connections)


def run(story: Callable[[House], Awaitable[None]], **options: float) -> None:
    async def told() -> None:
        async with living(**options) as house:
            await story(house)

    asyncio.run(told())


def test_a_whole_plain_request_takes_the_short_way() -> None:
    async def story(house: House) -> None:
        assert await house.exchange(PLAIN) == b"short:abcd"
        assert house.head == (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-query: top_k=2\r\nx-way: short\r\n"
            b"content-length: 10\r\n\r\n"
        )

    run(story)


LONG = {
    "in two pieces": (PLAIN[:-4], PLAIN[-4:]),
    "byte by byte": tuple(bytes([byte]) for byte in PLAIN),
    "chunked": (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",),
    "by HTTP/1.0": (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),),
    "by HTTP/1.0 over a connection that is to stay": (
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: x", b"Connection: keep-alive"),
    ),
    "to be closed": (PLAIN.replace(b"Host: x", b"Connection: close"),),
    "with an expectation": (PLAIN.replace(b"Host: x", b"Expect: 100-continue"),),
    "to another path": (PLAIN.replace(b"/predict", b"/predicts"),),
    "to a path that is only written otherwise": (PLAIN.replace(b"/predict", b"/predic%74"),),
    "by another method": (PLAIN.replace(b"POST", b"PUT"),),
    "with a large head": (PLAIN.replace(b"Host: x", b"X: " + b"x" * 3000),),
}


@pytest.mark.parametrize("pieces", LONG.values(), ids=LONG.keys())
def test_any_other_request_takes_the_long_way(pieces: tuple[bytes, ...]) -> None:
    async def story(house: House) -> None:
        assert await house.exchange(*pieces) == b"long:abcd"
        assert house.clients == []

    run(story)


def test_a_request_without_a_length_takes_the_long_way() -> None:
    async def story(house: House) -> None:
        assert await house.exchange(b"POST /predict HTTP/1.1\r\nHost: x\r\n\r\n") == b"long:"

    run(story)


def test_an_upgrade_is_left_to_uvicorn() -> None:
    async def story(house: House) -> None:
        await house.exchange(PLAIN.replace(b"Host: x", b"Connection: upgrade, keep-alive\r\nUpgrade: h2c"))

        assert house.clients == []

    run(story)


def test_a_body_over_the_limit_takes_the_long_way_which_refuses_it() -> None:
    async def story(house: House) -> None:
        for size, way in ((MAX_BODY, b"short"), (MAX_BODY + 1, b"long")):
            request = PLAIN.replace(b": 4", b": %d" % size)[:-4] + bytes(size)
            assert await house.exchange(request) == way + b":" + bytes(size)

    run(story)


@pytest.mark.parametrize(
    "malformed",
    [
        PLAIN.replace(b"Host: x", b"Content-Length: 5"),
        PLAIN.replace(b"Host: x", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Host: x", b"Host : x"),
        PLAIN.replace(b"Host: x", b"Host: x\r\n folded: y"),
        PLAIN.replace(b": 4", b": +4"),
        PLAIN.replace(b": 4", b": four"),
        PLAIN.replace(b"Host: x", b"Host\x00: x"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/9.9"),
        b"garbage\r\n\r\n",
    ],
)
def test_what_is_malformed_never_takes_the_short_way(malformed: bytes) -> None:
    async def story(house: House) -> None:
        house.writer.write(malformed)
        answer = await asyncio.wait_for(house.reader.read(12), SECONDS)

        assert answer in (b"HTTP/1.1 400", b"HTTP/1.1 200")  # as uvicorn's parser has it
        assert house.clients == []

    run(story)


def test_both_ways_take_turns_on_one_connection() -> None:
    async def story(house: House) -> None:
        for _ in range(3):
            assert await house.exchange(PLAIN) == b"short:abcd"
            assert await house.exchange(PLAIN[:-2], PLAIN[-2:]) == b"long:abcd"
            assert await house.exchange(GET) == b"long:"

    run(story)


def test_requests_in_one_piece_are_answered_in_their_order() -> None:
    async def story(house: House) -> None:
        house.writer.write(PLAIN + GET + PLAIN)

        assert [await house.answer() for _ in range(3)] == [b"long:abcd", b"long:", b"long:abcd"]

    run(story)


def test_what_comes_while_a_request_is_answered_waits_its_turn() -> None:
    async def story(house: House) -> None:
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(PLAIN)
        await until(lambda: house.clients)
        house.writer.write(PLAIN.replace(b"abcd", b"efgh"))
        await until(lambda: house.protocols[0]._held)
        house.writer.write(GET + PLAIN)  # not even read for now
        house.gate.set_result(None)

        assert [await house.answer() for _ in range(4)] == [b"short:abcd", b"short:efgh", b"long:", b"long:abcd"]

    run(story)


def test_a_request_behind_one_on_the_long_way_waits_its_turn() -> None:
    async def story(house: House) -> None:
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(GET)
        await asyncio.sleep(0.01)
        house.writer.write(PLAIN)
        await asyncio.sleep(0.01)
        house.gate.set_result(None)

        assert [await house.answer() for _ in range(2)] == [b"long:", b"long:abcd"]

    run(story)


def test_who_does_not_read_answers_is_kept_waiting_by_uvicorn() -> None:
    async def story(house: House) -> None:
        house.rest = bytes(10_000_000)
        house.writer.write(PLAIN)
        await until(lambda: house.clients and house.protocols[0].flow.write_paused)
        house.writer.write(PLAIN)

        assert [len(await house.answer()) for _ in range(2)] == [10_000_010, len(b"long:abcd")]

    run(story)


def test_the_rest_of_a_body_that_was_refused_is_not_taken_for_a_request() -> None:
    async def story(house: House) -> None:
        head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(PLAIN)

        assert await house.exchange(head) == b"early"
        assert await house.exchange(PLAIN, GET) == b"long:"
        assert house.clients == []

    run(story)


def test_a_client_that_leaves_is_seen_to_have_gone() -> None:
    async def story(house: House) -> None:
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(PLAIN)
        await until(lambda: house.clients)
        assert not house.clients[0].disconnected

        house.writer.transport.abort()
        await until(lambda: house.clients[0].disconnected)
        house.gate.set_result(None)
        await asyncio.sleep(0.01)

        assert house.errors == []
        assert house.protocols[0].timeout_keep_alive_task is None

    run(story)


def test_a_server_that_stops_answers_what_it_has_taken_and_closes() -> None:
    async def story(house: House) -> None:
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(PLAIN)
        await until(lambda: house.clients)
        house.protocols[0].shutdown()
        house.gate.set_result(None)

        assert await house.answer() == b"short:abcd"
        assert b"\r\nconnection: close\r\n" in house.head
        assert await house.is_closed()

    run(story)


def test_a_server_that_stops_closes_a_connection_that_rests() -> None:
    async def story(house: House) -> None:
        assert await house.exchange(PLAIN) == b"short:abcd"

        house.protocols[0].shutdown()

        assert await house.is_closed()

    run(story)


def test_a_connection_that_rests_for_too_long_is_closed() -> None:
    async def story(house: House) -> None:
        assert await house.exchange(PLAIN) == b"short:abcd"
        assert await house.is_closed()

    run(story, keep_alive=0.05)


def test_a_client_that_never_says_a_word_is_sent_away() -> None:
    async def story(house: House) -> None:
        assert await house.is_closed()

    run(story, keep_alive=0.05)


@pytest.mark.parametrize("before", [(), (PLAIN,), (GET,)], ids=["at first", "after a short one", "after a long one"])
def test_a_head_that_does_not_end_is_answered_408_and_closed(before: tuple[bytes, ...]) -> None:
    async def story(house: House) -> None:
        for request in before:
            await house.exchange(request)

        answer = await house.exchange(b"POST /predict HTTP/1.1\r\n", b"X-A: b")

        assert house.head.startswith(b"HTTP/1.1 408 ")
        assert b"the request's head must come within 0.05 s. Given: a slower one" in answer
        assert await house.is_closed()

    run(story, head_seconds=0.05)


def test_a_head_is_not_late_while_its_body_comes() -> None:
    async def story(house: House) -> None:
        house.writer.write(PLAIN[:-4])
        await asyncio.sleep(0.2)

        assert await house.exchange(b"abcd") == b"long:abcd"

    run(story, head_seconds=0.05)


def test_a_connection_does_not_rest_while_its_request_is_answered() -> None:
    async def story(house: House) -> None:
        assert await house.exchange(PLAIN) == b"short:abcd"
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(PLAIN)
        await asyncio.sleep(0.2)
        house.gate.set_result(None)

        assert await house.answer() == b"short:abcd"

    run(story, keep_alive=0.05)


def test_a_handler_that_fails_is_heard_of_and_its_client_is_not_left_waiting() -> None:
    async def story(house: House) -> None:
        house.fails = True
        house.gate = asyncio.get_running_loop().create_future()
        house.writer.write(PLAIN)
        await until(lambda: house.clients)
        house.gate.set_result(None)

        with contextlib.suppress(ConnectionResetError):
            assert await house.is_closed()
        assert [str(error) for error in house.errors] == ["a bug"]

    run(story)


def test_a_head_is_parsed_once_and_has_what_the_handlers_look_at() -> None:
    head = PLAIN.partition(b"\r\n\r\n")[0]

    found = read_head(head)

    assert found
    assert found.body_bytes == 4
    assert (found.head.method, found.head.path, found.head.raw_query) == ("POST", "/predict", b"top_k=2")
    assert found.head.header("host") == "x"
    assert read_head(bytes(bytearray(head))) is found
