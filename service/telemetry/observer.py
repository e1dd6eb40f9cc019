"""The observer of one HTTP process: hooks count its requests and blocks, `flush` adds the current gauges."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from service.engine.dispatcher import Dispatcher
from service.engine.messages import BlockAnswer
from service.engine.served_models import ServedModel
from service.heartbeats import Heartbeats
from service.http.messages import Request
from service.problems import ClientGone, Problem
from service.settings import Settings
from service.telemetry import trace_context
from service.telemetry.drift import Drift
from service.telemetry.line_writer import LineWriter
from service.telemetry.metrics import exposition, families
from service.telemetry.metrics.families import Gauge
from service.telemetry.metrics.gpus import GPUs
from service.telemetry.metrics.processes import Processes
from service.telemetry.metrics.recorder import Recorder, Stages
from service.telemetry.metrics.snapshots import Shared
from service.telemetry.metrics.totals import Totals
from service.telemetry.request_log import OK, RequestLine, RequestLog
from service.telemetry.trace_context import TraceContext
from service.telemetry.tracer import Tracer

_PRUNE_SECONDS = 10.0

_NEVER = 1e18
"""A time in the future, so that the age of what does not exist is 0."""


class Observer:
    """Collects the metrics and request lines of one HTTP process; call it from the event loop's thread only."""

    def __init__(self, folder: Path, heartbeats: Heartbeats, processes: Processes, settings: Settings) -> None:
        self._folder = folder
        self._processes = processes
        self._build = (version("argmax"), platform.python_version(), version("torch"))
        self._heartbeats = heartbeats
        self._hang_seconds = settings.hang_limit_seconds
        self.drift = Drift(folder)
        self._recorder = Recorder(folder, drift=self.drift, takes_feedback=settings.feedback_predictions > 0)
        self._gpus = GPUs()
        self._log: RequestLog | None = None
        if settings.log_requests:
            self._log = RequestLog(settings.log_requests / settings.front_processes, settings.log_format, LineWriter())
        self._otlp_endpoint = settings.otlp_endpoint
        self._tracer: Tracer | None = None
        self._in_flight = 0
        self._writer = ThreadPoolExecutor(1, "numbers")  # its thread starts with the first task, after the fork
        self._writing: Future[None] | None = None
        self._pruned = time.monotonic()

    # Hooks

    def arrived(self) -> None:
        """Count a request that begins; `answered` or `refused` must follow."""
        self._in_flight += 1

    def trace_of(self, request: Request) -> TraceContext | None:
        """Return the trace that a request belongs to, if any; with an endpoint for spans, one begins here."""
        return self._tracer.begin(request) if self._tracer else trace_context.read(request.headers)

    def answered(self, request: Request, model: ServedModel, stages: Stages, batch_size: int) -> None:
        """Count a request that got its predictions."""
        self._in_flight -= 1
        self._recorder.answered(model, stages)
        if request.caller:
            self._recorder.asked_with_key(request.caller.name, 200)
        if self._log:
            about = request.id, model.name, str(model.version)
            self._log.add(RequestLine(time.time(), *about, OK, 200, sum(stages), stages, *_key_and_trace(request)))
        if self._tracer:
            attributes = {**_attributes(request, model), "argmax.batch_size": batch_size}
            self._tracer.answered(request.trace.span, attributes, stages)

    def refused(
        self, request: Request, model: ServedModel | None, problem: type[Problem | ClientGone], seconds: float
    ) -> None:
        """Count a request that got none; the model is None when it was not resolved."""
        self._in_flight -= 1
        self._recorder.refused(model, problem.status, problem.reason)
        if request.caller:
            self._recorder.asked_with_key(request.caller.name, problem.status)
        if self._log:
            name, version = (model.name, str(model.version)) if model else ("", "")
            about = request.id, name, version, problem.reason, problem.status, seconds, None
            self._log.add(RequestLine(time.time(), *about, *_key_and_trace(request)))
        if self._tracer:
            self._tracer.refused(request.trace.span, _attributes(request, model), problem.status, problem.reason)

    def turned_away(self, request: Request, problem: Problem) -> None:
        """Count a request that was refused before it began."""
        self._recorder.refused(None, problem.status, problem.reason)
        if request.caller:
            self._recorder.asked_with_key(request.caller.name, problem.status)
        if self._log:
            about = problem.reason, problem.status, 0.0, None, *_key_and_trace(request)
            self._log.add(RequestLine(time.time(), "", "", "", *about))

    def images_refused(self, model: ServedModel, reason: str, number: int) -> None:
        """Count images that got an error although others of their request are answered."""
        self._recorder.image_failures(model, reason, number)

    def abstained(self, model: ServedModel, *, blank: int, foreign: int) -> None:
        """Count images that got no label: those with nothing to see, and outliers where the client wished it so."""
        self._recorder.abstained(model, blank=blank, foreign=foreign)

    def truth_told(self, model: ServedModel, outcome: str) -> None:
        """Count a prediction whose truth was told, by its outcome."""
        self._recorder.add(families.FEEDBACK, 1, model.name, str(model.version), outcome)

    def block_answered(self, model: ServedModel, answer: BlockAnswer) -> None:
        """Count a block that a worker answered."""
        self._recorder.block(model, answer)

    # Publishing

    def flush(self, dispatcher: Dispatcher) -> None:
        """Publish what has been counted; a thread writes it, because a slow disk must not stop the event loop."""
        if self._log:
            self._recorder.add(families.OMITTED_LINES, self._log.flush())
        if self._writing is None or self._writing.done():
            write = self._recorder.flush(dispatcher.served.models(), self._state(dispatcher))
            if write:
                self._writing = self._writer.submit(self._write, write)

    def open(self) -> None:
        """Begin to export spans, if there is an endpoint for them; after the fork, because that takes a thread."""
        if self._otlp_endpoint:
            self._tracer = Tracer(self._otlp_endpoint)

    @property
    def traces(self) -> bool:
        """Whether every request has a trace."""
        return self._tracer is not None

    def close(self, dispatcher: Dispatcher) -> None:
        """Publish what is left."""
        if self._log:
            self._log.close()
        if self._tracer:
            self._tracer.close()
        write = self._recorder.flush(dispatcher.served.models(), self._state(dispatcher), rests=False)
        if write:
            write()
        self._writer.shutdown(wait=False)

    async def expose(self, dispatcher: Dispatcher) -> bytes:
        """Return the exposition of all processes' metrics, this one's newest included."""
        self.flush(dispatcher)
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._writer, self._expose, dispatcher.served.models())

    async def totals(self, dispatcher: Dispatcher) -> Totals:
        """Return the numbers of all processes together, this one's newest included."""
        self.flush(dispatcher)
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._writer, lambda: Shared(self._folder).read_all().totals)

    def _expose(self, models: list[ServedModel]) -> bytes:
        build = (families.BUILD_INFO, self._build, 1)
        gauges = [build, *self._workers(), *self._processes.gauges(), *self._gpus.gauges()]
        gauges += self.drift.gauges(models)
        return exposition.expose(self._folder, gauges)

    def _write(self, write: Callable[[], bool]) -> None:
        write()
        if time.monotonic() - self._pruned > _PRUNE_SECONDS:
            self._recorder.prune()
            self._pruned = time.monotonic()

    def _state(self, dispatcher: Dispatcher) -> Iterator[Gauge]:
        yield families.HTTP_UP, (), 1
        yield families.IN_FLIGHT, (), self._in_flight
        yield families.QUEUE_CAPACITY, (), dispatcher.admission.max_queue
        absent = dispatcher.served.absent()
        fallbacks = dispatcher.served.fallbacks()
        names = {model.name for model in dispatcher.served.models()}
        for name in sorted(names | {each.name for each in absent}):
            refused = [each for each in absent if each.name == name and each.state == "refused"]
            yield families.FAULTS, (name,), len(refused)
            yield families.FALLBACK, (name,), float(name in fallbacks)
        waiting = dispatcher.waiting()
        for model in dispatcher.served.models():
            depth, oldest = waiting.get(model.name, (0, _NEVER))
            yield families.QUEUE_DEPTH, (model.name,), depth
            yield families.QUEUE_AGE, (model.name,), oldest
            version = str(model.version)
            manifest = model.manifest
            default = "true" if model.default else "false"
            about = (
                model.name,
                version,
                manifest.artifact.sha256,
                manifest.artifact.format,
                manifest.provenance.torch_version,
                default,
            )
            yield families.MODEL_INFO, about, 1
            yield families.MODEL_READY, (model.name, version), float(dispatcher.is_ready(model))
            yield families.MODEL_QUARANTINED, (model.name, version), 0
            for alias in model.aliases:
                yield families.ALIAS_INFO, (model.name, version, alias), 1
        for isolated in dispatcher.served.in_quarantine():
            yield families.MODEL_QUARANTINED, (isolated.name, str(isolated.version)), 1

    def _workers(self) -> Iterator[Gauge]:
        for number in range(self._heartbeats.workers):
            is_up = self._heartbeats.is_up(number) and self._heartbeats.silence(number) < self._hang_seconds
            yield families.WORKER_UP, (str(number),), float(is_up)


def _key_and_trace(request: Request) -> tuple[str, str]:
    return request.caller.name if request.caller else "", request.trace.trace_id if request.trace else ""


def _attributes(request: Request, model: ServedModel | None) -> dict[str, str | int]:
    """Return what a span says about a request."""
    found: dict[str, str | int] = {"argmax.key": request.caller.name} if request.caller else {}
    return found | ({"argmax.model": model.name, "argmax.version": model.version} if model else {})
