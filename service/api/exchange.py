"""The life of a request for inference, from its arrival to its answer, the same for every protocol.

Knows nothing about how a protocol says what it asks for, what it answers or what went wrong: a `FrontEnd` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol, TypeVar

from service.api.inference import Ask, Computed
from service.api.request import Query, Request
from service.api.response import Header, model_headers, server_timing
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel
from service.problems import ClientGone, Problem
from service.telemetry.observer import Observer

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


class Exchange:
    """Takes requests through their life and counts what becomes of each."""

    def __init__(self, dispatcher: Dispatcher, observer: Observer, timeout_seconds: float) -> None:
        self._served = dispatcher.served
        self._admission = dispatcher.admission
        self._observer = observer
        self._timeout_seconds = timeout_seconds

    async def run(self, front_end: FrontEnd[Content, Reply], request: Request) -> Reply:
        """Answer a request.

        Raises:
            ClientGone, asyncio.CancelledError: nobody waits for the answer any more.
        """
        started = time.monotonic()
        self._observer.arrived()
        head, client, body, _ = request
        request_id = head.request_id()
        id_header = (b"x-request-id", request_id.encode())
        model: ServedModel | None = None
        try:
            query = front_end.query(request)
            model = self._served.resolve(query.model, query.version)
            seconds = min(head.timeout_seconds, self._timeout_seconds)
            self._admission.admit(1, seconds)
            read_at = started
            if not isinstance(body, bytes):
                body = await body(started)
                read_at = time.monotonic()
            ask = Ask(model, started + seconds, client, query.bulk)
            content, computed = await front_end.compute(ask, request, body)
            stages = computed.stages(started, read_at, time.monotonic())
            reply = front_end.answer(content, (id_header, server_timing(stages)), model_headers(model))
        except (ClientGone, asyncio.CancelledError):
            self._observer.refused(request_id, model, ClientGone, time.monotonic() - started)
            raise
        except Problem as error:
            problem = error
        except Exception:
            logger.exception("request %s met a bug", request_id)
            problem = Problem(f"this is a bug; the log has it as {request_id}")
        else:
            self._observer.answered(request_id, model, stages)
            return reply
        self._observer.refused(request_id, model, type(problem), time.monotonic() - started)
        return front_end.refuse(problem, id_header)
