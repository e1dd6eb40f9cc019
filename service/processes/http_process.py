"""A process that takes requests, over HTTP or gRPC: what it is made of, and its life from fork to exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import torch
import uvicorn
from litserve.server import _Server

from service.api.app import build_router
from service.api.asgi import AsgiApplication, BodyReader
from service.api.auth import ApiKeyAuth
from service.api.exchange import Exchange
from service.api.fast_path import FastPathProtocol
from service.api.inference import Inference
from service.api.keys import Keys
from service.api.open_inference.routes import OpenInference
from service.api.predict import Predict
from service.api.probes import Probes
from service.engine.dispatcher import Dispatcher
from service.heartbeats import Heartbeats
from service.processes.signals import leave_signals_to_supervisor
from service.processes.sockets import BACKLOG, close_all
from service.settings import Settings
from service.telemetry.observer import Observer

_HOUSEKEEPING_SECONDS = 0.25
_JOIN_SECONDS = 2.0
_DECODE_THREADS = 2

Life = Callable[[], AbstractAsyncContextManager[None]]


class HTTPServer(_Server):  # type: ignore[misc]
    """LitServe's uvicorn server, which SIGTERM drains; Ctrl-C is left to the supervisor."""

    def __init__(self, config: uvicorn.Config, life: Life) -> None:
        super().__init__(config)
        self._life = life

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._life():
            await super()._serve(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - uvicorn's signature
        # uvicorn's own raises the signal again once it has drained, and the process would die of it.
        if sig != signal.SIGINT:
            self.should_exit = True


class HTTPProcess:
    """Everything that a process which takes requests consists of.

    Built once, before the forks; `serve_http` and `serve_grpc` are the main functions of the children. `inherited` are
    the sockets that a fork must close.
    """

    def __init__(self, settings: Settings, heartbeats: Heartbeats, observer: Observer, worker_paths: list[str]) -> None:
        self._settings = settings
        self._heartbeats = heartbeats
        self._observer = observer
        self._dispatcher = Dispatcher(
            worker_paths,
            default_model=settings.default_model,
            max_batch_size=settings.max_batch_size,
            max_queue=max(1, settings.max_queue // settings.front_processes),
            on_answer=observer.block_answered,
        )
        self._executor = ThreadPoolExecutor(_DECODE_THREADS, "decode")
        self._keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
        self._auth = ApiKeyAuth(self._keys) if self._keys else None
        self._bodies = BodyReader(settings.max_body_bytes, settings.timeout_seconds)
        self._inference = Inference(self._dispatcher, settings, self._executor)
        self._exchange = Exchange(self._dispatcher, observer, settings.timeout_seconds)
        self._probes = Probes(self._dispatcher, heartbeats, lambda: observer.expose(self._dispatcher))
        self._predict = Predict(self._exchange, self._inference, observer)
        self._open_inference = OpenInference(self._exchange, self._inference, self._probes.is_ready)
        self._router = build_router(self._probes, self._predict, self._open_inference, self._auth, observer)
        self.application = AsgiApplication(self._router, self._bodies)
        """What uvicorn calls for requests that do not take the fast path."""

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need an API key."""
        return self._keys is not None

    def serve_http(self, number: int, web: socket.socket, inherited: list[socket.socket]) -> None:
        """Serve HTTP on the socket `web` until SIGTERM."""
        self._begin(inherited)
        HTTPServer(self._uvicorn_config(), self.life).run(number, [web])

    def serve_grpc(self, inherited: list[socket.socket]) -> None:
        """Serve gRPC until SIGTERM."""
        self._begin(inherited)
        asyncio.run(self._serve_grpc())

    async def _serve_grpc(self) -> None:
        # Imported here: gRPC must not be forked once it has begun, and HTTP needs neither its packages nor its memory.
        from service.api.open_inference.grpc.server import serve
        from service.api.open_inference.grpc.servicer import Servicer

        servicer = Servicer(self._exchange, self._inference, self._probes.is_ready, self._auth, self._observer)
        async with self.life():
            await serve(servicer.handler(), self._settings)

    def _begin(self, inherited: list[socket.socket]) -> None:
        leave_signals_to_supervisor()
        close_all(inherited)
        torch.set_num_threads(1)
        gc.set_threshold(50_000, 20, 100)  # a request makes few cycles; the default looks for them every 700 objects

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Keep the connections to the workers open, and the housekeeping running, while requests are taken."""
        if parent := multiprocessing.parent_process():
            # Without a supervisor nobody would end this process: finish what was accepted, then exit.
            asyncio.get_running_loop().add_reader(parent.sentinel, signal.raise_signal, signal.SIGTERM)
        self._dispatcher.open()
        if self._heartbeats.any_up():
            # This process replaces one that died: it takes no request before it knows which models are served.
            await self._dispatcher.wait_for_worker(_JOIN_SECONDS)
        housekeeping = asyncio.create_task(self._keep_house())
        yield
        housekeeping.cancel()
        await self._dispatcher.close()
        self._observer.close(self._dispatcher)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            self._bodies.sweep(time.monotonic())
            if self._keys:
                self._keys.refresh()
            self._observer.flush(self._dispatcher)

    def _uvicorn_config(self) -> uvicorn.Config:
        settings = self._settings
        return uvicorn.Config(
            app=self.application,
            http=partial(FastPathProtocol, self._router.handle, settings.max_body_bytes, settings.timeout_seconds),  # type: ignore[arg-type] # called like a class
            host=settings.host,
            port=settings.port,
            lifespan="off",  # see HTTPServer
            log_config=None,  # lines like all others
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=round(settings.shutdown_seconds),
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,  # longer than clients and proxies keep theirs, so that none meets a closing one
        )
