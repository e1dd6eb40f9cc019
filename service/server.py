"""LitServe, as we run it: its application, its worker processes and its HTTP servers, joined by our own transport.

LitServe 0.2.19 moves every item four times through one manager process, decodes in the worker, does not handle SIGTERM
and hangs on a worker's death. Here its LitAPI, LitLoop, LitServer and worker entry stay; the queue is replaced by one
Unix socket for each pair of processes (`frames`), and its monitor by `Supervisor`. Everything that overrides LitServe
is in this module, against exactly that version.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import signal
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import litserve as ls
import torch
import uvicorn
from fastapi import FastAPI
from litserve.loops.base import LitLoop
from litserve.server import _Server

from service import metrics
from service.api.app import Front, add_routes
from service.api.predict import Predict
from service.catalogue import load_models
from service.dispatcher import Dispatcher, ServedModel
from service.frames import Answer
from service.registry import Registry, RegistryError
from service.settings import Settings
from service.supervisor import HOPELESS, Supervisor
from service.vitals import Vitals
from service.worker import Worker

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.25
_DECODE_THREADS = 2


class BlockLoop(LitLoop):  # type: ignore[misc]
    """LitServe's extension point for a worker's main loop: ours is `Worker.run`."""

    def __call__(self, lit_api: Classifier, *_: object, **__: object) -> None:
        lit_api.serve()


class Classifier(ls.LitAPI):  # type: ignore[misc]
    """What LitServe starts in each worker process: `setup` loads the registry's models on the worker's device."""

    def __init__(self, settings: Settings, vitals: Vitals, listeners: list[socket.socket]) -> None:
        super().__init__(loop=BlockLoop())
        self._settings = settings
        self._vitals = vitals
        self._listeners = listeners
        self._worker: Worker
        self.number = 0

    def setup(self, device: str) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which ends workers last
        configure_logging(self._settings.log_level)
        settings = self._settings
        torch.set_num_threads(settings.threads)
        try:
            models = load_models(
                Registry(settings.registry), torch.device(device), max_batch_size=settings.max_batch_size
            )
        except RegistryError as error:
            logger.error("%s", error)
            raise SystemExit(HOPELESS) from error
        self._worker = Worker(
            models,
            self._listeners[self.number],
            max_batch_size=settings.max_batch_size,
            beat=lambda now: self._vitals.beat(self.number, now),
        )

    def serve(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is None:
            raise RuntimeError("a worker must be a child of the supervisor. Given: no parent process")
        self._worker.run(stop=parent.sentinel)

    def predict(self, x: Any, **_: object) -> Any:
        raise NotImplementedError("blocks are computed by Worker")


class HTTPServer(_Server):  # type: ignore[misc]
    """uvicorn in an HTTP process: SIGTERM drains it; Ctrl-C is left to the supervisor."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)


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
        self._recorder = metrics.Recorder()
        self._dispatcher = Dispatcher(
            self._paths,
            default_model=settings.default_model,
            max_batch_size=settings.max_batch_size,
            max_queue=max(1, settings.max_queue // settings.http_processes),
            on_answer=self._record_block,
        )
        self._executor = ThreadPoolExecutor(_DECODE_THREADS, "decode")
        self._predict = Predict(self._dispatcher, settings, self._executor, self._recorder.request)
        super().__init__(
            Classifier(settings, self._vitals, self._listeners),
            accelerator="cpu" if devices == ["cpu"] else "cuda",
            devices=len(devices),
            timeout=False,
        )
        # LitServe would set these in `_init_manager`, beside a manager process that nothing here needs.
        self.workers_setup_status: dict[str, str] = {}
        self.litapi_request_queues = {self.lit_api.api_path: None}
        self._transport = None

    def register_endpoints(self) -> None:
        """Our routes in place of LitServe's, which would put the probes behind its auth."""
        self.app = FastAPI(title="Argmax", lifespan=self.lifespan)
        self.middlewares: list[Any] = []  # LitServe's gzip costs more than it saves on answers of 100 bytes
        add_routes(
            self.app,
            self._predict,
            self._dispatcher,
            is_draining=lambda: self._vitals.draining,
            flush=self._flush_metrics,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG002 - FastAPI's signature
        """The life of one HTTP process."""
        self._dispatcher.open()
        flusher = asyncio.create_task(self._keep_flushing())
        yield
        flusher.cancel()
        await self._dispatcher.close()
        self._flush_metrics()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Raises:
            OSError: the address cannot be bound.
            ServiceFailed: workers or HTTP processes keep failing to start.
        """
        settings = self._settings
        config = self._uvicorn_config()
        web = config.bind_socket()
        host, port = web.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        gc.collect()
        gc.freeze()  # what exists now is shared with every fork; collecting it would copy the pages
        Supervisor(
            self._start_worker,
            lambda number: self._start_http(number, config, web),
            self._vitals,
            settings,
            workers=len(self._paths),
            on_http_death=metrics.forget_process,
            on_stop=web.close,
        ).run()

    def _start_worker(self, number: int) -> BaseProcess:
        self.lit_api.number = number
        # A worker that is still importing must not die of the Ctrl-C that its supervisor is to handle.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process: BaseProcess = self.launch_single_inference_worker(self.lit_api, number)
        finally:
            signal.signal(signal.SIGINT, previous)
        return process

    def _start_http(self, number: int, config: uvicorn.Config, web: socket.socket) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=self._http_main, args=(number, config, web), name=f"http-{number}"
        )
        process.start()
        return process

    def _http_main(self, number: int, config: uvicorn.Config, web: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for listener in self._listeners:
            listener.close()
        torch.set_num_threads(1)
        gc.set_threshold(50_000, 20, 100)  # a request makes few cycles; the default looks for them every 700 objects
        with contextlib.suppress(KeyboardInterrupt):
            HTTPServer(config).run(number, [web])

    def _uvicorn_config(self) -> uvicorn.Config:
        settings = self._settings
        return uvicorn.Config(
            app=Front(self.app, self._predict),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            backlog=4096,
            timeout_graceful_shutdown=round(settings.shutdown_seconds),
            server_header=False,
            date_header=False,
        )

    def _record_block(self, model: ServedModel, answer: Answer) -> None:
        self._recorder.block(
            model.name,
            str(model.version),
            images=len(answer.class_ids),
            batch_size=answer.batch_size,
            queue_seconds=answer.queue_seconds,
            compute_seconds=answer.compute_seconds,
        )

    def _flush_metrics(self) -> None:
        self._recorder.flush(self._dispatcher.depth)

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._flush_metrics()


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


def configure_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("fsspec").setLevel("WARNING")


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(512)
    return listener
