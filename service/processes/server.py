"""LitServe, as we run it: its application, its worker processes and its HTTP servers, joined by our own transport.

LitServe 0.2.19 moves every item four times through one manager process, decodes in the worker, does not handle SIGTERM
and hangs on a worker's death. Here its LitAPI, LitLoop, LitServer and worker entry stay; the queue is replaced by one
Unix socket for each pair of processes (`frames`), and its monitor by `Supervisor`. Everything that overrides LitServe
is in this module, against exactly that version.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import ipaddress
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import litserve as ls
import torch
import uvicorn
from fastapi import FastAPI
from litserve.loops.base import LitLoop
from litserve.loops.loops import inference_worker
from litserve.server import _Server

from service.api.app import Front, add_routes
from service.api.asgi import BodyReader
from service.api.auth import Gate
from service.api.fast_path import Protocol
from service.api.inference import Inference
from service.api.keys import Keys
from service.api.open_inference.repository import Repository
from service.api.open_inference.routes import OpenInference
from service.api.predict import Predict
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry, RegistryError
from service.engine.dispatcher import Dispatcher
from service.engine.line_up import LineUp
from service.engine.worker import Worker
from service.heartbeats import Vitals
from service.images.decode_pool import DecodePool
from service.logs import configure_logging
from service.model import autotune, torchscript
from service.model.model import DeviceFailedError, Model
from service.model.selftest import SelfTests, UnsoundWorkerError
from service.processes.restart_policy import HOPELESS, UNSOUND
from service.processes.supervisor import Supervisor
from service.rollout.catalogue import Catalogue
from service.rollout.loader import Probation
from service.rollout.sandbox import Limits, Trials
from service.rollout.verdicts import Verdicts
from service.rollout.watcher import follow
from service.settings import Settings, usable_cores
from service.telemetry.metrics.recorder import Recorder
from service.telemetry.observer import Ledger

logger = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS = 0.25
_JOIN_SECONDS = 2.0
_BACKLOG = 4096
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class BlockLoop(LitLoop):  # type: ignore[misc]
    """LitServe's extension point for a worker's main loop: ours is `Worker.run`."""

    def __call__(self, lit_api: Classifier, *_: object, **__: object) -> None:
        lit_api.serve()


class Classifier(ls.LitAPI):  # type: ignore[misc]
    """What LitServe starts in each worker process: `setup` loads the registry's models on the worker's device."""

    def __init__(self, settings: Settings, vitals: Vitals, listeners: list[socket.socket], run_dir: Path) -> None:
        super().__init__(loop=BlockLoop())
        self._run_dir = run_dir
        self._settings = settings
        self._vitals = vitals
        self._listeners = listeners
        self._recorder: Recorder  # what this worker counts; survives it, as `Recorder.absorb` says
        self._verdicts = Verdicts(run_dir / "verdicts.jsonl")
        self._catalogue: Catalogue
        self._line_up: LineUp
        self.number = 0
        self.not_yours: list[socket.socket] = []

    def setup(self, device: str) -> None:
        _leave_signals_to_supervisor()
        _close(self.not_yours)
        configure_logging(self._settings.log_level, self._settings.log_format)
        self._recorder = Recorder(self._run_dir)
        settings = self._settings
        torch.set_num_threads(1)
        torchscript.start()  # before the prober is forked
        probation = self._probation(torch.device(device))
        self._catalogue = Catalogue(
            Registry(settings.registry),
            probation.load,
            keep_versions=settings.keep_versions,
            on_load=self._recorder.load,
        )
        try:
            self._line_up = self._catalogue.line_up()
        except RegistryError as error:
            logger.error("%s", error)
            raise SystemExit(HOPELESS) from error

    def _probation(self, device: torch.device) -> Probation:
        settings = self._settings

        def load(manifest: ModelManifest, artifact: bytes) -> Model:
            model = autotune.fastest(
                manifest,
                artifact,
                device,
                cores=usable_cores(),
                threads=settings.threads,
                forms=settings.form == "fastest",
            )
            if settings.form == "fastest":
                autotune.graph(model, settings.max_batch_size)
            model.warm_up(settings.max_batch_size)
            return model

        def try_out(manifest: ModelManifest, artifact: bytes) -> None:
            trials.run(manifest, artifact, gently=self._vitals.is_up(self.number))

        trials = Trials(load, Limits(settings.trial_seconds, settings.trial_memory_bytes))
        return Probation(try_out, load, self._verdicts)

    def serve(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is None:
            raise RuntimeError("a worker must be a child of the supervisor. Given: no parent process")
        worker = Worker(
            self._line_up,
            self._listeners[self.number],
            max_batch_size=self._settings.max_batch_size,
            beat=functools.partial(self._vitals.beat, self.number),
            self_tests=SelfTests(self._settings.selftest_seconds, self._recorder.selftest),
        )
        follow(self._catalogue, self._line_up, worker.offer, poll_seconds=self._settings.poll_seconds)
        try:
            worker.run(stop=parent.sentinel)
        except UnsoundWorkerError as error:
            logger.error("ends, to be replaced: %s", error)
            raise SystemExit(UNSOUND) from error
        except DeviceFailedError as error:
            logger.error("ends, to be replaced: the device must compute. Given: %s", error)
            raise SystemExit(1) from error

    def predict(self, x: Any, **_: object) -> Any:
        raise NotImplementedError("blocks are computed by Worker")


class HTTPServer(_Server):  # type: ignore[misc]
    """uvicorn in an HTTP process: SIGTERM drains it; Ctrl-C is left to the supervisor."""

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - uvicorn's signature
        # Not uvicorn's own, which raises the signal again once it has drained, so that the process dies of it.
        if sig != signal.SIGINT:
            self.should_exit = True


class Server(ls.LitServer):  # type: ignore[misc]
    """The composition root: builds every part from `settings` and runs them until a signal.

    `run_dir` is a private folder for the sockets; it must exist.
    """

    def __init__(self, settings: Settings, run_dir: Path) -> None:
        self._settings = settings
        devices = worker_devices(settings.device)
        self._vitals = Vitals(len(devices))
        self._paths = [str(run_dir / f"worker-{number}.sock") for number in range(len(devices))]
        self._listeners = [_listen(path) for path in self._paths]
        self._ledger = Ledger(run_dir, self._vitals, settings)
        self._events = Recorder(run_dir, keeper=True)
        self._dispatcher = Dispatcher(
            self._paths,
            default_model=settings.default_model,
            max_batch_size=settings.max_batch_size,
            max_queue=max(1, settings.max_queue // settings.front_processes),
            on_answer=self._ledger.block_answered,
        )
        self._pool = DecodePool()
        self._keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
        self._bodies = BodyReader(settings.max_body_bytes, settings.timeout_seconds)
        self._inference = Inference(self._dispatcher, settings, self._pool)
        self._predict = Predict(self._inference, self._bodies, self._ledger)
        self._repository = Repository(self._dispatcher, settings, self._vitals, version("argmax"))
        self._open_inference = OpenInference(self._inference, self._repository, self._bodies, self._ledger)
        super().__init__(
            Classifier(settings, self._vitals, self._listeners, run_dir),
            accelerator="cpu" if devices == ["cpu"] else "cuda",
            devices=len(devices),
            timeout=False,
        )

    def register_endpoints(self) -> None:
        """Our routes in place of LitServe's, which would put the probes behind its auth."""
        self.app = FastAPI(
            title="Argmax", version=version("argmax"), lifespan=self.lifespan, docs_url=None, redoc_url=None
        )
        self.middlewares: list[Any] = []  # LitServe's gzip costs more than it saves on answers of 100 bytes
        add_routes(
            self.app,
            self._predict,
            self._open_inference,
            self._dispatcher,
            is_draining=lambda: self._vitals.draining,
            metrics=lambda: self._ledger.expose(self._dispatcher),
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG002 - FastAPI's signature
        """The life of one HTTP process."""
        async with self._life():
            yield

    @contextlib.asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        """The life of one process that takes requests."""
        if parent := multiprocessing.parent_process():
            # Without a supervisor nobody would end this process: finish what was accepted, then go.
            asyncio.get_running_loop().add_reader(parent.sentinel, signal.raise_signal, signal.SIGTERM)
        self._dispatcher.open()
        if self._vitals.any_up():
            # This process replaces one that died: it takes no request before it knows what to answer.
            await self._dispatcher.wait_for_worker(_JOIN_SECONDS)
        housekeeping = asyncio.create_task(self._keep_house())
        yield
        housekeeping.cancel()
        await self._dispatcher.close()
        self._ledger.close(self._dispatcher)
        self._pool.close()

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Raises:
            OSError: the address cannot be bound.
            ServiceFailed: workers or HTTP processes keep failing to start.
        """
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        web = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        reserved = [reserve(settings.host, settings.grpc_port, family)] if settings.grpc_port else []
        host, port = web.getsockname()[:2]
        if not self._keys and not ipaddress.ip_address(host).is_loopback:
            logger.warning("%s can be reached from other machines and asks for no key; see --api-keys-file", host)
        # Inherited by forks, and none of a worker's business: it would keep the port after the service is gone.
        self.lit_api.not_yours = [web, *reserved]
        self._events.open()
        gc.collect()
        gc.freeze()  # what exists now is shared with every fork; collecting it would copy the pages
        Supervisor(
            self._start_worker,
            lambda number: self._start_front(number, web, reserved),
            self._vitals,
            settings,
            workers=len(self._paths),
            on_start=lambda: logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port),
            on_worker_death=self._events.worker_restart,
            on_http_death=self._events.http_restart,
            on_stop=partial(_close, [web, *reserved]),
        ).run()

    def _start_worker(self, number: int) -> BaseProcess:
        # A fork has torch imported already, so a worker is back in a tenth of a second; but CUDA must be fresh.
        device = self.devices[number]
        context = multiprocessing.get_context("fork") if device == "cpu" else multiprocessing.get_context("spawn")
        self.lit_api.number = number
        arguments: tuple[Any, ...] = (self.lit_api, device, number, None, None, {}, self._callback_runner, False)
        return _start(context.Process(target=inference_worker, args=arguments, name=f"worker-{number}"))

    def _start_front(self, number: int, web: socket.socket, reserved: list[socket.socket]) -> BaseProcess:
        context = multiprocessing.get_context("fork")
        if number < self._settings.http_processes:
            return _start(context.Process(target=self._http_main, args=(number, web, reserved), name=f"http-{number}"))
        return _start(context.Process(target=self._grpc_main, args=([web, *reserved],), name="grpc"))

    def _http_main(self, number: int, web: socket.socket, reserved: list[socket.socket]) -> None:
        self._begin_front(reserved)
        HTTPServer(self._uvicorn_config()).run(number, [web])

    def _grpc_main(self, reserved: list[socket.socket]) -> None:
        self._begin_front(reserved)
        asyncio.run(self._serve_grpc())

    async def _serve_grpc(self) -> None:
        # Here alone: gRPC is not to be forked once it has begun, and HTTP needs neither its packages nor its memory.
        from service.api.open_inference.grpc.server import serve
        from service.api.open_inference.grpc.servicer import Servicer

        servicer = Servicer(self._inference, self._repository, self._gate(), self._ledger)
        async with self._life():
            await serve(servicer.handler(), self._settings)

    def _begin_front(self, not_its: list[socket.socket]) -> None:
        """What a process that takes requests does first."""
        _leave_signals_to_supervisor()
        _close([*not_its, *self._listeners])
        torch.set_num_threads(1)
        gc.set_threshold(50_000, 20, 100)  # a request makes few cycles; the default looks for them every 700 objects

    def _gate(self) -> Gate | None:
        return Gate(self._keys) if self._keys else None

    def _uvicorn_config(self) -> uvicorn.Config:
        settings = self._settings
        front = Front(self.app, self._predict, self._gate(), self._ledger)
        return uvicorn.Config(
            app=front,
            http=partial(Protocol, front.predict, settings.max_body_bytes, settings.timeout_seconds),  # type: ignore[arg-type] # called like a class
            host=settings.host,
            port=settings.port,
            log_config=None,  # lines like all others
            log_level="warning",
            access_log=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=round(settings.shutdown_seconds),
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,  # longer than clients and proxies keep theirs, so that none meets a closing one
        )

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            self._bodies.sweep(time.monotonic())
            if self._keys:
                self._keys.refresh()
            self._ledger.flush(self._dispatcher)


def worker_devices(device: str) -> list[str]:
    """One worker for each CUDA device, or one for the CPU.

    Raises:
        ValueError: CUDA is asked for, and there is none.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device == "cuda" and not gpus:
        raise ValueError(
            "SERVICE_DEVICE=cuda needs a CUDA device. Given: none that torch can see. "
            "Use SERVICE_DEVICE=auto or cpu to serve from the CPU."
        )
    return [f"cuda:{number}" for number in range(gpus)] or ["cpu"]


def reserve(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """A bound socket that keeps the port for gRPC, whose server can only be told an address, not given a socket.

    Raises:
        OSError: the port is taken.
        ValueError: what speaks gRPC is not installed.
    """
    if not all(map(importlib.util.find_spec, ("grpc", "google", "google.protobuf"))):
        raise ValueError("SERVICE_GRPC_PORT needs grpcio and protobuf. Given: neither or one. pip install argmax[grpc]")
    # Two sockets with SO_REUSEPORT share a port without a word, and so would two services; without it, bind refuses.
    socket.create_server((host, port), family=family).close()
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


def _start(process: BaseProcess) -> BaseProcess:
    """Start a child that feels no signal before it has called `_leave_signals_to_supervisor`.

    Otherwise Ctrl-C ends a worker that is still importing, and a SIGTERM that comes right after the fork runs the
    supervisor's handler in the child, which then never ends.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    return process


def _leave_signals_to_supervisor() -> None:
    """In a child: Ctrl-C reaches it too, but the supervisor decides when it ends, and says so with SIGTERM."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(512)
    return listener
