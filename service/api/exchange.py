"""The life of a request for inference, from its head to its answer, the same for every protocol.

Knows nothing about how a protocol says what it asks for, what it answers or what went wrong: a `FrontEnd` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple, Protocol, TypeVar

from service.api.inference import Ask, Computed
from service.api.request import Query, timeout_seconds
from service.api.response import computed_headers, model_headers
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel
from service.http.content_encoding import decoded_body
from service.http.messages import Header, Request
from service.problems import ClientGone, Problem
from service.telemetry.observer import Observer
from service.telemetry.trace_context import TRACEPARENT

logger = logging.getLogger(__name__)

Content = TypeVar("Content")
"""What a front end makes of the computed outputs: its answer's body, encoded."""

Reply = TypeVar("Reply", covariant=True)
"""What a front end answers with."""


class FrontEnd(Protocol[Content, Reply]):
    """A protocol's own part of a request's life."""

    def query(self, request: Request) -> Query:
        """Return which model, version and priority are asked for; raises Problem if the request does not say it."""

    async def compute(self, ask: Ask, request: Request, body: bytes) -> tuple[Content, Computed]:
        """Find the inputs in the body, compute, and encode what comes out; raises Problem or ClientGone."""

    def answer(self, content: Content, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Reply:
        """Return the answer with these headers: the request's own, and those that a model's answers share."""

    def refuse(self, problem: Problem, id_header: Header) -> Reply:
        """Return the answer to a request that has no predictions."""


class _Begun(NamedTuple):
    """What a request's head says: the `context` of a request that has begun."""

    ask: Ask
    query: Query


class Exchange:
    """Takes requests through their life and counts what becomes of each: `begin`, then `run` or `abandon`."""

    def __init__(self, dispatcher: Dispatcher, observer: Observer, timeout_seconds: float) -> None:
        self._served = dispatcher.served
        self._admission = dispatcher.admission
        self._observer = observer
        self._timeout_seconds = timeout_seconds

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
        ask = Ask(model, request.arrived + seconds, request.client, query.bulk, request.caller)
        request.context = _Begun(ask, query)

    def abandon(self, request: Request, failure: type[Problem | ClientGone]) -> None:
        """Count a request whose body did not come; one that was not begun is counted already."""
        if request.context:
            self._refused(request, request.context.ask.model, failure)
            request.context = None

    async def run(self, front_end: FrontEnd[Content, Reply], request: Request) -> Reply:
        """Answer a request that has begun and whose body is there.

        Raises:
            ClientGone, asyncio.CancelledError: nobody waits for the answer any more.
        """
        ask: Ask = request.context.ask
        model = ask.model
        read_at = time.monotonic()
        id_header = (b"x-request-id", request.id.encode())
        try:
            content, computed = await front_end.compute(ask, request, decoded_body(request))
            stages = computed.stages(request.arrived, read_at, time.monotonic())
            own: tuple[Header, ...] = (id_header, *computed_headers(stages, computed.batch_size))
            if request.trace:
                own += (request.trace.header(),)
            reply = front_end.answer(content, own, model_headers(model))
        except (ClientGone, asyncio.CancelledError):
            self._refused(request, model, ClientGone)
            raise
        except Problem as error:
            problem = error
        except Exception:
            logger.exception("request %s met a bug", request.id)
            problem = Problem(f"this is a bug; the log has it as {request.id}")
        else:
            self._observer.answered(request, model, stages, computed.batch_size)
            return reply
        self._refused(request, model, type(problem))
        return front_end.refuse(problem, id_header)

    def _refused(self, request: Request, model: ServedModel | None, failure: type[Problem | ClientGone]) -> None:
        self._observer.refused(request, model, failure, time.monotonic() - request.arrived)
