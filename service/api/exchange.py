"""The life of a request for inference, from its head to its answer, the same for every protocol.

Knows nothing about how a protocol says what it asks for, what it answers or what went wrong: a `FrontEnd` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from service.api.inference import Ask, Computed, Inference
from service.api.request import Query, timeout_seconds
from service.api.response import computed_headers, model_headers
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.http.messages import Header, Later, Request, Response
from service.problems import ClientGone, Problem
from service.telemetry.feedback.recent import Recent
from service.telemetry.observer import Observer
from service.telemetry.trace_context import TRACEPARENT

logger = logging.getLogger(__name__)

Content = TypeVar("Content")
"""What a front end makes of the computed outputs: its answer's body, encoded."""

Reply = TypeVar("Reply", covariant=True)
"""What a front end answers with."""


class Inputs(Generic[Content]):
    """The `size` inputs of a request, back to back in `data`; `encode` makes its answer of their outputs.

    `encode` raises Problem if they cannot be answered. `places` are those of the predictions in the answer, unless they
    are 0, 1, 2 and so on.
    """

    __slots__ = ("data", "encode", "places", "size")

    def __init__(
        self, data: bytes, size: int, encode: Callable[[Computed], Content], places: tuple[int, ...] | None = None
    ) -> None:
        self.data = data
        self.size = size
        self.encode = encode
        self.places = places


class FrontEnd(Protocol[Content, Reply]):
    """A protocol's own part of a request's life."""

    def query(self, request: Request) -> Query:
        """Return which model, version and priority are asked for; raises Problem if the request does not say it."""

    def find(self, ask: Ask, request: Request, body: bytes) -> Inputs[Content] | Awaitable[Inputs[Content]]:
        """Find the inputs in the body, at once where that is quick; raises Problem or ClientGone."""

    def answer(self, content: Content, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Reply:
        """Return the answer with these headers: the request's own, and those that a model's answers share."""

    def refuse(self, problem: Problem, id_header: Header) -> Reply:
        """Return the answer to a request that has no predictions."""


class _Begun:
    """What a request's head says: the `context` of a request that has begun."""

    __slots__ = ("ask", "query")

    def __init__(self, ask: Ask, query: Query) -> None:
        self.ask = ask
        self.query = query


class Exchange:
    """Takes requests through their life and counts what becomes of each: `begin`, then an answer or `abandon`.

    `answer` is for HTTP, and spares most requests a task; `run` is for whoever awaits it.
    """

    def __init__(
        self, inference: Inference, observer: Observer, timeout_seconds: float, recent: Recent | None = None
    ) -> None:
        self._inference = inference
        self._served = inference.dispatcher.served
        self._admission = inference.dispatcher.admission
        self._observer = observer
        self._timeout_seconds = timeout_seconds
        self._recent = recent

    def begin(self, front_end: FrontEnd[Content, Reply], request: Request) -> None:
        """Resolve what a request's head asks for, and admit it, before its body is read.

        Raises:
            Problem: it asks for what is not there, or for what cannot be computed in time. It is counted.
        """
        self._observer.arrived()
        if self._observer.traces or TRACEPARENT in request.headers:
            request.trace = self._observer.trace_of(request)
        model: ServedModel | None = None
        try:
            query = front_end.query(request)
            model = self._served.resolve(query.model, query.version)
            seconds = min(timeout_seconds(request), self._timeout_seconds)
            self._admission.admit(model.key, 1, seconds)
        except Problem as problem:
            self._refused(request, model, type(problem))
            raise
        ask = Ask(model, request.arrived + seconds, request.client, bulk=query.bulk, key=request.caller)
        request.context = _Begun(ask, query)

    def abandon(self, request: Request, failure: type[Problem | ClientGone]) -> None:
        """Count a request whose body did not come; one that was not begun is counted already."""
        if request.context:
            self._refused(request, request.context.ask.model, failure)
            request.context = None

    def answer(
        self, front_end: FrontEnd[Content, Response], request: Request
    ) -> Response | Later | Coroutine[Any, Any, Response]:
        """Answer a request that has begun and whose body is there: at once, by a call, or as a coroutine."""
        read_at = time.monotonic()
        begun: _Begun = request.context
        try:
            found = front_end.find(begun.ask, request, request.body)
            if not isinstance(found, Inputs) or not 0 < found.size <= self._inference.chunk_size:
                return self._run(front_end, request, read_at, found)
            later = _Later(self, front_end, request, read_at, found)
            self._inference.start(begun.ask, found.data, found.size, later)
        except Exception as error:  # noqa: BLE001 - `fail` logs what is no refusal
            return self.fail(front_end, request, error)
        return later

    async def run(self, front_end: FrontEnd[Content, Reply], request: Request) -> Reply:
        """Answer likewise.

        Raises:
            ClientGone, asyncio.CancelledError: nobody waits for the answer any more.
        """
        read_at = time.monotonic()
        try:
            found = front_end.find(request.context.ask, request, request.body)
        except Exception as error:  # noqa: BLE001 - `fail` logs what is no refusal
            return self.fail(front_end, request, error)
        return await self._run(front_end, request, read_at, found)

    async def _run(
        self,
        front_end: FrontEnd[Content, Reply],
        request: Request,
        read_at: float,
        found: Inputs[Content] | Awaitable[Inputs[Content]],
    ) -> Reply:
        ask: Ask = request.context.ask
        try:
            inputs = found if isinstance(found, Inputs) else await found
            computed = await self._inference.compute(ask, inputs.data, inputs.size)
            return self.reply(front_end, request, read_at, inputs, computed)
        except (ClientGone, asyncio.CancelledError):
            self.client_left(request)
            raise
        except Exception as error:  # noqa: BLE001 - `fail` logs what is no refusal
            return self.fail(front_end, request, error)

    def reply(
        self,
        front_end: FrontEnd[Content, Reply],
        request: Request,
        read_at: float,
        inputs: Inputs[Content],
        computed: Computed,
    ) -> Reply:
        """Return the answer to a request whose inputs are computed, and count it.

        Raises:
            Problem: they cannot be answered.
        """
        begun: _Begun = request.context
        model = begun.ask.model
        content = inputs.encode(computed)
        stages = computed.stages(request.arrived, read_at, time.monotonic())
        batch_size = computed.batch_size
        own: tuple[Header, ...] = (request.id_header(), *computed_headers(stages, batch_size))
        if request.trace:
            own += (request.trace.header(),)
        reply = front_end.answer(content, own, model_headers(model))
        if self._recent:
            self._recent.remember(
                request.id,
                model,
                computed.parts,
                inputs.data,
                places=inputs.places,
                abstains=begun.query.abstain,
            )
        self._observer.answered(request, model, stages, batch_size)
        return reply

    def client_left(self, request: Request) -> None:
        """Count a request whose client has left."""
        self._refused(request, request.context.ask.model, ClientGone)

    def fail(self, front_end: FrontEnd[Content, Reply], request: Request, error: Exception) -> Reply:
        """Return the answer to a request that met `error`, and count it."""
        if not isinstance(error, Problem):
            logger.error("request %s met a bug", request.id, exc_info=error)
            error = Problem(f"this is a bug; the log has it as {request.id}")
        self._refused(request, request.context.ask.model, type(error))
        return front_end.refuse(error, request.id_header())

    def _refused(self, request: Request, model: ServedModel | None, failure: type[Problem | ClientGone]) -> None:
        self._observer.refused(request, model, failure, time.monotonic() - request.arrived)


class _Later(Later, Generic[Content]):
    """The answer to a request whose inputs are one chunk: its `Receiver`, which answers where it is told."""

    __slots__ = ("_exchange", "_front_end", "_inputs", "_is_done", "_read_at", "_request", "_submitted")

    def __init__(
        self,
        exchange: Exchange,
        front_end: FrontEnd[Content, Response],
        request: Request,
        read_at: float,
        inputs: Inputs[Content],
    ) -> None:
        self._exchange = exchange
        self._front_end = front_end
        self._request = request
        self._read_at = read_at
        self._inputs = inputs
        self._submitted = time.monotonic()
        self._is_done = False

    def cancel(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._exchange.client_left(self._request)

    # Receiver

    def done(self) -> bool:
        return self._is_done

    def set_result(self, part: Part) -> None:
        self._is_done = True
        computed = Computed.one(part, self._submitted)
        try:
            response = self._exchange.reply(self._front_end, self._request, self._read_at, self._inputs, computed)
        except Exception as error:  # noqa: BLE001 - `fail` logs what is no refusal
            response = self._exchange.fail(self._front_end, self._request, error)
        self.reply(response)

    def set_exception(self, error: Exception) -> None:
        self._is_done = True
        if isinstance(error, ClientGone):
            self._exchange.client_left(self._request)
            self.reply(None)
        else:
            self.reply(self._exchange.fail(self._front_end, self._request, error))
