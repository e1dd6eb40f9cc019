"""The observer of one HTTP process: hooks count its requests and blocks, `flush` adds the current gauges."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from service.engine.dispatcher import Dispatcher
from service.engine.messages import BlockAnswer
from service.engine.served_models import ServedModel
from service.heartbeats import Heartbeats
from service.problems import ClientGone, Problem
from service.settings import Settings
from service.telemetry.line_writer import LineWriter
from service.telemetry.metrics import exposition, families
from service.telemetry.metrics.gpus import GPUs
from service.telemetry.metrics.recorder import Gauge, Recorder, Stages
from service.telemetry.request_log import OK, RequestLine, RequestLog

_PRUNE_SECONDS = 10.0

_NEVER = 1e18
"""A time in the future, so that the age of what does not exist is 0."""


class Observer:
    """Collects the metrics and request lines of one HTTP process; call it from the event loop's thread only."""

    def __init__(self, folder: Path, heartbeats: Heartbeats, settings: Settings) -> None:
        self._folder = folder
        self._heartbeats = heartbeats
        self._hang_seconds = settings.hang_limit_seconds
        self._recorder = Recorder(folder)
        self._gpus = GPUs()
        self._log: RequestLog | None = None
        if settings.log_requests:
            self._log = RequestLog(settings.log_requests / settings.front_processes, settings.log_format, LineWriter())
        self._in_flight = 0
        self._writer = ThreadPoolExecutor(1, "numbers")  # its thread starts with the first task, after the fork
        self._writing: Future[None] | None = None
        self._pruned = time.monotonic()

    # Hooks

    def arrived(self) -> None:
        """Count a request that begins; `answered` or `refused` must follow."""
        self._in_flight += 1

    def answered(self, request_id: str, model: ServedModel, stages: Stages) -> None:
        """Count a request that got its predictions."""
        self._in_flight -= 1
        self._recorder.answered(model, stages)
        if self._log:
            about = request_id, model.name, str(model.version)
            self._log.add(RequestLine(time.time(), *about, OK, 200, sum(stages), stages))

    def refused(
        self, request_id: str, model: ServedModel | None, problem: type[Problem | ClientGone], seconds: float
    ) -> None:
        """Count a request that got none; the model is None when it was not resolved."""
        self._in_flight -= 1
        self._recorder.refused(model, problem.status, problem.reason)
        if self._log:
            name, version = (model.name, str(model.version)) if model else ("", "")
            outcome = problem.reason, problem.status
            self._log.add(RequestLine(time.time(), request_id, name, version, *outcome, seconds, None))

    def turned_away(self, problem: Problem) -> None:
        """Count a request that was refused before it began."""
        self._recorder.refused(None, problem.status, problem.reason)
        if self._log:
            self._log.add(RequestLine(time.time(), "", "", "", problem.reason, problem.status, 0.0, None))

    def images_refused(self, model: ServedModel, reason: str, number: int) -> None:
        """Count images that got an error although others of their request are answered."""
        self._recorder.image_failures(model, reason, number)

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

    def close(self, dispatcher: Dispatcher) -> None:
        """Publish what is left."""
        if self._log:
            self._log.close()
        write = self._recorder.flush(dispatcher.served.models(), self._state(dispatcher), rests=False)
        if write:
            write()
        self._writer.shutdown(wait=False)

    async def expose(self, dispatcher: Dispatcher) -> bytes:
        """Return the exposition of all processes' metrics, this one's newest included."""
        self.flush(dispatcher)
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._writer, self._expose)

    def _expose(self) -> bytes:
        return exposition.expose(self._folder, [*self._workers(), *self._gpus.gauges()])

    def _write(self, write: Callable[[], bool]) -> None:
        write()
        if time.monotonic() - self._pruned > _PRUNE_SECONDS:
            self._recorder.prune()
            self._pruned = time.monotonic()

    def _state(self, dispatcher: Dispatcher) -> Iterator[Gauge]:
        yield families.HTTP_UP, (), 1
        yield families.IN_FLIGHT, (), self._in_flight
        yield families.QUEUE_CAPACITY, (), dispatcher.admission.max_queue
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
        for absent in dispatcher.served.in_quarantine():
            yield families.MODEL_QUARANTINED, (absent.name, str(absent.version)), 1

    def _workers(self) -> Iterator[Gauge]:
        for number in range(self._heartbeats.workers):
            is_up = self._heartbeats.is_up(number) and self._heartbeats.silence(number) < self._hang_seconds
            yield families.WORKER_UP, (str(number),), float(is_up)
