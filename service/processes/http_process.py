"""A process that takes requests, over HTTP or gRPC: what it is made of, and its life from fork to exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import uvloop

from service.api.administration import Administration
from service.api.app import build_router
from service.api.auth import ApiKeyAuth
from service.api.exchange import Exchange
from service.api.feedback import Feedback
from service.api.inference import Inference
from service.api.keys import Keys
from service.api.open_inference import statistics
from service.api.open_inference.metadata import Document
from service.api.open_inference.routes import OpenInference
from service.api.predict import Predict
from service.api.probes import Probes
from service.api.quotas import Quotas
from service.api.readiness import Readiness
from service.api.torchserve import TorchServe
from service.engine.dispatcher import Dispatcher
from service.engine.quarantine import Quarantine
from service.engine.served_models import ServedModel
from service.heartbeats import Heartbeats
from service.http.acceptor import Balance
from service.http.limits import Limits
from service.http.server import HTTPServer
from service.images.decode_pool import DecodePool
from service.processes.signals import END, leave_signals_to_supervisor
from service.processes.sockets import close_all
from service.rollout.unloaded import Unloaded
from service.settings import Settings
from service.telemetry.feedback.recent import Recent
from service.telemetry.observer import Observer

_HOUSEKEEPING_SECONDS = 0.25
_JOIN_SECONDS = 2.0

_BODIES = 16
"""So many bodies of the largest size may a process hold at a time."""


class Paths(NamedTuple):
    """The Unix sockets of the workers, with the number of the models' group that each serves, and of the retrier."""

    workers: Sequence[str]
    groups: Sequence[int]
    retrier: str


class HTTPProcess:
    """Everything that a process which takes requests consists of.

    Built once, before the forks; `serve_http` and `serve_grpc` are the main functions of the children. `inherited` are
    the sockets that a fork must close.
    """

    def __init__(
        self,
        settings: Settings,
        heartbeats: Heartbeats,
        observer: Observer,
        quarantine: Quarantine,
        paths: Paths,
        run_dir: Path,
    ) -> None:
        self._settings = settings
        self._quarantine = quarantine
        self._number = 0
        self._balance = Balance(settings.http_processes)
        self._heartbeats = heartbeats
        self._observer = observer
        self._dispatcher = Dispatcher(
            list(paths.workers),
            groups=paths.groups,
            retrier=paths.retrier,
            default_model=settings.default_model,
            max_batch_size=settings.max_batch_size,
            max_queue=max(1, settings.max_queue // settings.front_processes),
            on_answer=observer.block_answered,
        )
        self._pool = DecodePool()
        self._keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
        # Of its own: those of asyncio may all wait for a registry that hangs, and heartbeats must not wait with them.
        self._keys_thread = ThreadPoolExecutor(1, "keys")  # which starts with the first task, after the fork
        quotas = Quotas(run_dir) if self._keys else None
        self._auth = ApiKeyAuth(self._keys, quotas) if self._keys and quotas else None
        self._inference = Inference(self._dispatcher, settings, self._pool, quotas)
        self._recent: Recent | None = None
        if settings.feedback_predictions:
            keeps = bool(settings.feedback_dir)
            self._recent = Recent(settings.feedback_predictions, settings.front_processes, keeps_inputs=keeps)
        self._exchange = Exchange(self._inference, observer, settings.timeout_seconds, self._recent)
        self._readiness = Readiness(self._dispatcher, heartbeats, settings)
        self._probes = Probes(self._dispatcher, self._readiness, lambda: observer.expose(self._dispatcher))
        self._predict = Predict(self._exchange, self._inference, observer)
        self._administration = Administration(self._dispatcher, Unloaded(run_dir), settings)
        self._open_inference = OpenInference(
            self._exchange,
            self._inference,
            self._administration,
            self._readiness.is_ready,
            self._statistics,
            observer.drift,
        )
        torch_serve = (
            TorchServe(self._exchange, self._inference, self._readiness.is_ready) if settings.torchserve else None
        )
        self._router = build_router(
            self._probes,
            self._predict,
            self._open_inference,
            torch_serve,
            self._auth,
            observer,
            self._administration,
            Feedback(
                self._recent,
                run_dir,
                self._dispatcher.served.models,
                lambda: observer.totals(self._dispatcher),
                observer,
                settings,
            ),
            settings,
        )

    async def _statistics(self, models: Sequence[ServedModel]) -> list[Document]:
        return statistics.describe(models, await self._observer.totals(self._dispatcher))

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need an API key."""
        return self._keys is not None

    def serve_http(self, number: int, web: socket.socket, inherited: list[socket.socket]) -> None:
        """Serve HTTP on the socket `web` until the supervisor ends it, as the front process `number`."""
        self._begin(number, inherited)
        uvloop.run(self._serve_http(web))

    def serve_grpc(self, number: int, inherited: list[socket.socket]) -> None:
        """Serve gRPC until the supervisor ends it, as the front process `number`."""
        self._begin(number, inherited)
        asyncio.run(self._serve_grpc())

    async def _serve_http(self, web: socket.socket) -> None:
        settings = self._settings
        limits = Limits(
            max_body_bytes=settings.max_body_bytes,
            max_bodies_bytes=_BODIES * settings.max_body_bytes,
            head_seconds=settings.timeout_seconds,
            body_seconds=settings.timeout_seconds,
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(END, stop.set)
        async with self.life():
            server = HTTPServer(self._router, limits, self._balance, self._number)
            await server.run(web, stop, shutdown_seconds=settings.shutdown_seconds)

    async def _serve_grpc(self) -> None:
        # Imported here: gRPC must not be forked once it has begun, and HTTP needs neither its packages nor its memory.
        from service.api.open_inference.grpc.server import serve
        from service.api.open_inference.grpc.servicer import Servicer

        servicer = Servicer(
            self._exchange,
            self._inference,
            self._administration,
            self._readiness.is_ready,
            self._statistics,
            self._auth,
            self._observer,
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(END, stop.set)
        async with self.life():
            await serve(servicer.handler(), self._settings, stop)

    def _begin(self, number: int, inherited: list[socket.socket]) -> None:
        self._number = number
        if self._recent:
            self._recent.open(number)
        leave_signals_to_supervisor()
        close_all(inherited)
        torch.set_num_threads(1)
        gc.set_threshold(50_000, 20, 100)  # a request makes few cycles; the default looks for them every 700 objects

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Keep the connections to the workers open, and the housekeeping running, while requests are taken."""
        if parent := multiprocessing.parent_process():
            # Without a supervisor nobody would end this process: finish what was accepted, then exit.
            asyncio.get_running_loop().add_reader(parent.sentinel, signal.raise_signal, END)
        self._observer.open()
        self._dispatcher.open()
        if self._heartbeats.any_up():
            # This process replaces one that died: it takes no request before it knows which models are served.
            await self._dispatcher.wait_for_worker(_JOIN_SECONDS)
        housekeeping = asyncio.create_task(self._keep_house())
        yield
        housekeeping.cancel()
        await self._dispatcher.close()
        self._observer.close(self._dispatcher)
        self._pool.close()

    async def _keep_house(self) -> None:
        while True:
            self._heartbeats.other_beat(self._number, time.monotonic())
            if self._recent:
                self._recent.know(self._dispatcher.served.models())
            if (found := self._quarantine.news()) is not None:
                self._dispatcher.quarantine(found)
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            if self._keys and self._keys.has_news():
                await asyncio.get_running_loop().run_in_executor(self._keys_thread, self._keys.refresh)
            self._observer.flush(self._dispatcher)
