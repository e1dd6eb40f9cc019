"""Every request that arrives is counted once as what became of it, whichever protocol it speaks."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from service.api.exchange import Exchange
from service.api.inference import Ask, Computed
from service.api.request import Query, parse_query
from service.engine.dispatcher import Dispatcher
from service.engine.messages import BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.http.messages import Header, Request
from service.problems import BadRequest, ClientGone, Problem, RequestTimeout, TooLarge
from service.telemetry import trace_context
from service.telemetry.observer import Observer
from service.telemetry.trace_context import TraceContext
from tests.registries import publish

ANSWER = BlockAnswer([7], [1.0], memoryview(b"").cast("f"), 10, 3, 0.0, 0.0)


class Client:
    disconnected = False


class Counter:
    """An observer that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def arrived(self) -> None:
        self.told.append(("arrived",))

    traces = False

    def trace_of(self, request: Request) -> TraceContext | None:
        return trace_context.read(request.headers)

    def answered(self, request: Request, model: ServedModel, _stages: object, _batch_size: int) -> None:
        self.told.append(("answered", request.id, model.name))

    def refused(self, request: Request, model: ServedModel | None, problem: type[Problem], _seconds: float) -> None:
        self.told.append(("refused", request.id, model and model.name, problem))


class FrontEnd:
    """Answers with the body in capitals, or with what `compute` raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.asks: list[Ask] = []
        self.waits: asyncio.Future[None] | None = None

    def query(self, request: Request) -> Query:
        return parse_query(request.raw_query)

    async def compute(self, ask: Ask, _: Request, body: bytes) -> tuple[bytes, Computed]:
        self.asks.append(ask)
        if self.waits:
            await self.waits
        if self.error:
            raise self.error
        return body.upper(), Computed([Part(ANSWER, 0, 1)], ask.deadline - 10, 0.25, 0.5)

    def answer(self, content: bytes, own: tuple[Header, ...], shared: tuple[Header, ...]) -> tuple[bytes, list[bytes]]:
        return content, [name for name, _ in (*own, *shared)]

    def refuse(self, problem: Problem, id_header: Header) -> tuple[bytes, list[bytes]]:
        return problem.detail.encode(), [id_header[0]]


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def exchange(tmp_path: Path, counter: Counter) -> Exchange:
    dispatcher = Dispatcher([], default_model="rows", max_batch_size=1, max_queue=10)
    dispatcher.served.replace([ServedModel(publish(tmp_path), default=True)])
    return Exchange(dispatcher, cast("Observer", counter), timeout_seconds=10)


def request(query: bytes = b"", **headers: str) -> Request:
    given = {
        name.replace("_", "-").encode(): value.encode() for name, value in {"x_request_id": "id", **headers}.items()
    }
    found = Request("POST", b"/predict?" + query, given, Client())
    found.body = b"body"
    found.max_body_bytes = 1000
    return found


async def answer(exchange: Exchange, front_end: FrontEnd, asked: Request) -> tuple[bytes, list[bytes]]:
    """Take a request through its life, as the router does."""
    try:
        exchange.begin(front_end, asked)
    except Problem as problem:
        return front_end.refuse(problem, (b"x-request-id", asked.id.encode()))
    return await exchange.run(front_end, asked)


def test_an_answer_bears_the_id_the_stages_and_the_model_and_is_counted(exchange: Exchange, counter: Counter) -> None:
    content, headers = asyncio.run(answer(exchange, FrontEnd(), request()))

    assert content == b"BODY"
    assert headers[:3] == [b"x-request-id", b"server-timing", b"x-batch-size"]
    assert headers[3:] == [b"x-model", b"x-model-version", b"x-model-digest", b"x-model-form"]
    assert counter.told == [("arrived",), ("answered", "id", "rows")]


def test_an_answer_names_the_trace_that_its_request_belongs_to(exchange: Exchange) -> None:
    asked = request(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

    _, headers = asyncio.run(answer(exchange, FrontEnd(), asked))

    assert b"traceresponse" in headers
    assert asked.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_a_compressed_body_is_decompressed(exchange: Exchange) -> None:
    asked = request(content_encoding="gzip")
    asked.body = gzip.compress(b"packed")

    content, _ = asyncio.run(answer(exchange, FrontEnd(), asked))

    assert content == b"PACKED"


@pytest.mark.parametrize("failure", [RequestTimeout, TooLarge, ClientGone])
def test_a_request_whose_body_does_not_come_is_counted_once(
    exchange: Exchange, counter: Counter, failure: type[Problem | ClientGone]
) -> None:
    asked = request()
    exchange.begin(FrontEnd(), asked)

    exchange.abandon(asked, failure)
    exchange.abandon(asked, failure)

    assert counter.told == [("arrived",), ("refused", "id", "rows", failure)]


def test_the_sooner_of_both_deadlines_holds_and_bulk_is_passed_on(exchange: Exchange) -> None:
    front_end = FrontEnd()

    asyncio.run(answer(exchange, front_end, request(query=b"priority=bulk", x_request_timeout_ms="60000")))
    asyncio.run(answer(exchange, front_end, request(x_request_timeout_ms="1000")))

    late, early = front_end.asks
    assert (late.bulk, early.bulk) == (True, False)
    assert 8 < late.deadline - early.deadline < 10


@pytest.mark.parametrize(
    ("sent", "error", "model", "failure", "detail"),
    [
        ({}, BadRequest("it must be good. Given: bad"), "rows", BadRequest, "it must be good. Given: bad"),
        ({"query": b"nope=1"}, None, None, BadRequest, "query parameters must be of"),
        ({}, KeyError("a bug"), "rows", Problem, "this is a bug; the log has it as id"),
    ],
    ids=["a problem", "before the model is known", "a bug"],
)
def test_a_refusal_is_shaped_and_counted(
    exchange: Exchange,
    counter: Counter,
    sent: dict[str, bytes],
    error: Exception | None,
    model: str | None,
    failure: type[Problem],
    detail: str,
) -> None:
    content, headers = asyncio.run(answer(exchange, FrontEnd(error), request(**sent)))  # type: ignore[arg-type]

    assert content.decode().startswith(detail)
    assert headers == [b"x-request-id"]
    assert counter.told == [("arrived",), ("refused", "id", model, failure)]


def cancelled(exchange: Exchange) -> None:
    async def story() -> None:
        front_end = FrontEnd()
        front_end.waits = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(answer(exchange, front_end, request()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def gone(exchange: Exchange) -> None:
    with pytest.raises(ClientGone):
        asyncio.run(answer(exchange, FrontEnd(ClientGone()), request()))


@pytest.mark.parametrize("leave", [cancelled, gone])
def test_a_client_that_leaves_is_counted_however_the_server_says_so(
    exchange: Exchange, counter: Counter, leave: Callable[[Exchange], None]
) -> None:
    leave(exchange)

    assert counter.told == [("arrived",), ("refused", "id", "rows", ClientGone)]
