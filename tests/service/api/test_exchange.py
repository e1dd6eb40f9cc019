"""Every request that arrives is counted once as what became of it, whichever protocol it speaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from service.api.exchange import Exchange, Inputs
from service.api.inference import Ask, Computed, Inference
from service.api.request import Query, parse_query
from service.engine.dispatcher import Dispatcher
from service.engine.messages import BlockAnswer
from service.engine.queues import Part, Receiver
from service.engine.served_models import ServedModel
from service.http.messages import Header, Later, Request, Response
from service.problems import BadRequest, ClientGone, Problem, RequestTimeout, TooLarge, Unavailable
from service.telemetry import trace_context
from service.telemetry.observer import Observer
from service.telemetry.trace_context import TraceContext
from tests.registries import publish

ANSWER = BlockAnswer([7], [1.0], memoryview(b"").cast("f"), 10, 3, 0.0, 0.0)
PART = Part(ANSWER, 0, 1)


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
    """Answers with the body in capitals, or with what `find` raises; it finds the body at once, or `slowly`."""

    def __init__(self, error: Exception | None = None, *, slowly: bool = False, bug: Exception | None = None) -> None:
        self.error = error
        self.slowly = slowly
        self.bug = bug
        self.asks: list[Ask] = []

    def query(self, request: Request) -> Query:
        return parse_query(request.raw_query)

    def find(self, ask: Ask, _: Request, body: bytes) -> Inputs[bytes] | Awaitable[Inputs[bytes]]:
        self.asks.append(ask)
        if self.slowly:
            return self._find(body)
        if self.error:
            raise self.error
        return Inputs(body, 1, partial(self._encode, body))

    async def _find(self, body: bytes) -> Inputs[bytes]:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return Inputs(body, 1, partial(self._encode, body))

    def _encode(self, body: bytes, computed: Computed) -> bytes:
        if self.bug:
            raise self.bug
        assert computed.batch_size == 3
        return body.upper()

    def answer(self, content: bytes, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content, headers=(*own, *shared))

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return Response(problem.status, problem.detail.encode(), headers=(id_header,))


class Computing:
    """An `Inference` that answers every input in the next turn of the loop, with `error` if there is one, or never."""

    chunk_size = 4

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.error: Exception | None = None
        self.never = False

    def start(self, _ask: Ask, _data: bytes, _size: int, receiver: Receiver) -> None:
        if self.never:
            return
        tell = partial(receiver.set_exception, self.error) if self.error else partial(receiver.set_result, PART)
        asyncio.get_running_loop().call_soon(tell)

    async def compute(self, _ask: Ask, _data: bytes, _size: int) -> Computed:
        await (asyncio.get_running_loop().create_future() if self.never else asyncio.sleep(0))
        if self.error:
            raise self.error
        return Computed.one(PART, time.monotonic())


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def computing(tmp_path: Path) -> Computing:
    dispatcher = Dispatcher([], default_model="rows", max_batch_size=1, max_queue=10)
    dispatcher.served.replace([ServedModel(publish(tmp_path), default=True)])
    return Computing(dispatcher)


@pytest.fixture
def exchange(computing: Computing, counter: Counter) -> Exchange:
    return Exchange(cast("Inference", computing), cast("Observer", counter), timeout_seconds=10)


def request(query: bytes = b"", **headers: str) -> Request:
    given = {
        name.replace("_", "-").encode(): value.encode() for name, value in {"x_request_id": "id", **headers}.items()
    }
    found = Request("POST", "/predict", given, Client(), raw_query=query)
    found.body = b"body"
    found.max_body_bytes = 1000
    return found


async def answer(exchange: Exchange, front_end: FrontEnd, asked: Request) -> tuple[bytes, list[bytes]]:
    """Take a request through its life, as the router and the connection do; what comes later is cancelled likewise."""
    try:
        exchange.begin(front_end, asked)
    except Problem as problem:
        response = front_end.refuse(problem, (b"x-request-id", asked.id.encode()))
    else:
        found = exchange.answer(front_end, asked)
        if isinstance(found, Response):
            response = found
        else:
            response = await (found.wait() if isinstance(found, Later) else found)
    return response.body, [name for name, _ in response.headers]


@pytest.fixture(params=[False, True], ids=["found at once", "found slowly"])
def slowly(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_an_answer_bears_the_id_the_stages_and_the_model_and_is_counted(
    exchange: Exchange, counter: Counter, slowly: bool
) -> None:
    content, headers = asyncio.run(answer(exchange, FrontEnd(slowly=slowly), request()))

    assert content == b"BODY"
    assert headers[:3] == [b"x-request-id", b"server-timing", b"x-batch-size"]
    assert headers[3:] == [b"x-model", b"x-model-version", b"x-model-digest", b"x-model-form"]
    assert counter.told == [("arrived",), ("answered", "id", "rows")]


def test_an_answer_names_the_trace_that_its_request_belongs_to(exchange: Exchange) -> None:
    asked = request(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

    _, headers = asyncio.run(answer(exchange, FrontEnd(), asked))

    assert b"traceresponse" in headers
    assert asked.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"


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
    slowly: bool,
) -> None:
    content, headers = asyncio.run(answer(exchange, FrontEnd(error, slowly=slowly), request(**sent)))  # type: ignore[arg-type]

    assert content.decode().startswith(detail)
    assert headers == [b"x-request-id"]
    assert counter.told == [("arrived",), ("refused", "id", model, failure)]


@pytest.mark.parametrize("error", [Unavailable("it must be there. Given: it is not"), KeyError("a bug")])
def test_a_request_that_is_not_computed_is_refused_and_counted(
    exchange: Exchange, computing: Computing, counter: Counter, error: Exception, slowly: bool
) -> None:
    computing.error = error

    content, headers = asyncio.run(answer(exchange, FrontEnd(slowly=slowly), request()))

    problem = Unavailable if isinstance(error, Unavailable) else Problem
    assert content.decode().startswith("it must" if problem is Unavailable else "this is a bug")
    assert headers == [b"x-request-id"]
    assert counter.told == [("arrived",), ("refused", "id", "rows", problem)]


def test_a_bug_in_an_answer_costs_that_request_alone(exchange: Exchange, counter: Counter, slowly: bool) -> None:
    async def story() -> tuple[tuple[bytes, list[bytes]], ...]:
        bad, good = FrontEnd(bug=KeyError("a bug"), slowly=slowly), FrontEnd(slowly=slowly)
        return await asyncio.gather(answer(exchange, bad, request()), answer(exchange, good, request()))

    (refusal, _), (content, _) = asyncio.run(story())

    assert refusal == b"this is a bug; the log has it as id"
    assert content == b"BODY"
    assert sorted(str(told[0]) for told in counter.told) == ["answered", "arrived", "arrived", "refused"]


def test_several_inputs_are_found_at_once_and_awaited(exchange: Exchange, counter: Counter) -> None:
    class Many(FrontEnd):
        def find(self, ask: Ask, request: Request, body: bytes) -> Inputs[bytes]:
            found = cast("Inputs[bytes]", super().find(ask, request, body))
            found.size = Computing.chunk_size + 1
            return found

    content, _ = asyncio.run(answer(exchange, Many(), request()))

    assert content == b"BODY"
    assert counter.told[-1] == ("answered", "id", "rows")


def cancelled(exchange: Exchange, computing: Computing, slowly: bool) -> None:
    computing.never = True

    async def story() -> None:
        task = asyncio.create_task(answer(exchange, FrontEnd(slowly=slowly), request()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def gone(exchange: Exchange, computing: Computing, slowly: bool) -> None:
    computing.error = ClientGone()
    with pytest.raises(ClientGone):
        asyncio.run(answer(exchange, FrontEnd(slowly=slowly), request()))


@pytest.mark.parametrize("leave", [cancelled, gone])
def test_a_client_that_leaves_is_counted_however_the_server_says_so(
    exchange: Exchange,
    computing: Computing,
    counter: Counter,
    leave: Callable[[Exchange, Computing, bool], None],
    slowly: bool,
) -> None:
    leave(exchange, computing, slowly)

    assert counter.told == [("arrived",), ("refused", "id", "rows", ClientGone)]


def test_whoever_awaits_gets_the_same_answer(exchange: Exchange, counter: Counter) -> None:
    async def story() -> Response:
        front_end, asked = FrontEnd(), request()
        exchange.begin(front_end, asked)
        return await exchange.run(front_end, asked)

    assert asyncio.run(story()).body == b"BODY"
    assert counter.told == [("arrived",), ("answered", "id", "rows")]
