"""The composition root: every part of the service, built from its settings, and LitServe as we run it.

LitServe 0.2.19 moves every item four times through one manager process, decodes in the worker, does not handle SIGTERM
and hangs on a worker's death. Its LitAPI, LitLoop, LitServer and worker entry stay; its queue is replaced by one Unix
socket for each pair of processes (`service.engine.messages`), and its monitor by `Supervisor`. Whatever overrides
LitServe is in this folder, against exactly that version.
"""

from __future__ import annotations

import gc
import ipaddress
import logging
import multiprocessing
import os
import socket
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import litserve as ls
from litserve.loops.loops import inference_worker

from service import compiled
from service.contract.model_folder import open_registry
from service.contract.registry import RegistryError
from service.engine.quarantine import Quarantine
from service.heartbeats import Heartbeats
from service.processes import sockets
from service.processes.http_process import HTTPProcess, Paths
from service.processes.retrier_process import RetrierProcess
from service.processes.signals import start_child
from service.processes.supervisor import Supervisor
from service.processes.worker_process import Classifier, worker_devices
from service.rollout import confinement
from service.rollout.groups import Groups
from service.settings import Settings
from service.telemetry import tracer
from service.telemetry.metrics.processes import Processes
from service.telemetry.metrics.recorder import Recorder
from service.telemetry.observer import Observer

logger = logging.getLogger(__name__)


class Server(ls.LitServer):  # type: ignore[misc]
    """The service: builds every part from `settings` and runs the processes until a signal.

    `run_dir` is a private folder for the sockets; it must exist.
    """

    def __init__(self, settings: Settings, run_dir: Path) -> None:
        self._settings = settings
        if settings.otlp_endpoint:
            tracer.check_installed()
        devices = worker_devices(settings.device)
        groups = Groups(run_dir / "groups.txt", _number_of_groups(settings), len(devices))
        workers = range(groups.number * len(devices))
        paths = [str(run_dir / f"worker-{number}.sock") for number in workers]
        retrier_path = str(run_dir / "retrier.sock")
        self._worker_listeners = [sockets.listen_unix(path) for path in paths]
        self._retrier_listener = sockets.listen_unix(retrier_path)
        self._heartbeats = Heartbeats(len(workers), settings.front_processes + 1)
        self._quarantine = Quarantine(run_dir / "deaths.jsonl")
        self._events = Recorder(run_dir, keeper=True)
        self._processes = Processes(
            [
                "supervisor",
                *(f"http-{number}" for number in range(settings.http_processes)),
                *["grpc"][: bool(settings.grpc_port)],
                "retrier",
                *(f"worker-{number}" for number in workers),
            ]
        )
        observer = Observer(run_dir, self._heartbeats, self._processes, settings)
        sent_to = Paths(paths, [groups.of_worker(number) for number in workers], retrier_path)
        self._http = HTTPProcess(settings, self._heartbeats, observer, self._quarantine, sent_to, run_dir)
        self._retrier = RetrierProcess(settings, self._heartbeats, self._quarantine, self._retrier_listener, run_dir)
        super().__init__(
            Classifier(settings, self._heartbeats, self._worker_listeners, run_dir, groups),
            accelerator="cpu" if devices == ["cpu"] else "cuda",
            devices=len(devices),
            timeout=False,
        )

    def register_endpoints(self) -> None:
        """Register nothing: our HTTP processes have routes of their own, without LitServe's web application."""
        self.app = None
        self.middlewares: list[Any] = []  # LitServe's gzip costs more than it saves on answers of 100 bytes

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Raises:
            OSError: the address cannot be bound.
            ServiceFailed: workers or HTTP processes keep failing to start.
        """
        settings = self._settings
        web = sockets.listen_tcp(settings.host, settings.port)
        reserved = [sockets.reserve(settings.host, settings.grpc_port)] if settings.grpc_port else []
        host = web.getsockname()[0]
        if not self._http.asks_for_keys and not ipaddress.ip_address(host).is_loopback:
            logger.warning("%s can be reached from other machines and asks for no key; see --api-keys-file", host)
        # A fork inherits these; a worker that kept them open would hold the port after the service is gone.
        self.lit_api.not_ours = [web, *reserved, self._retrier_listener]
        confinement.announce()
        self._events.open()
        self._processes.started("supervisor", os.getpid())
        gc.collect()
        gc.freeze()  # what exists now is shared with every fork; collecting it would copy the pages
        Supervisor(
            self._start_worker,
            lambda number: self._start_http(number, web, reserved),
            self._heartbeats,
            settings,
            workers=len(self._worker_listeners),
            on_start=lambda: logger.info(
                "listening on %s (compiled modules: %d)", sockets.url(web), len(compiled.loaded())
            ),
            on_worker_death=self._events.worker_restart,
            on_http_death=self._events.http_restart,
            on_stop=partial(sockets.close_all, [web, *reserved]),
            start_retrier=lambda: self._start_retrier([web, *reserved, *self._worker_listeners]),
            on_blame=partial(self._quarantine.record, cause="worker"),
        ).run()

    def _start_worker(self, number: int) -> BaseProcess:
        # A fork has torch imported already, so a worker is back in a tenth of a second; but CUDA must be fresh.
        device = self.devices[number % len(self.devices)]
        context = multiprocessing.get_context("fork") if device == "cpu" else multiprocessing.get_context("spawn")
        self.lit_api.number = number
        arguments: tuple[Any, ...] = (self.lit_api, device, number, None, None, {}, self._callback_runner, False)
        return self._start(context.Process(target=inference_worker, args=arguments, name=f"worker-{number}"))

    def _start_http(self, number: int, web: socket.socket, reserved: list[socket.socket]) -> BaseProcess:
        context = multiprocessing.get_context("fork")
        inherited = [*reserved, *self._worker_listeners, self._retrier_listener]
        if number < self._settings.http_processes:
            arguments = (number, web, inherited)
            return self._start(context.Process(target=self._http.serve_http, args=arguments, name=f"http-{number}"))
        arguments_of_grpc = (number, [web, *inherited])
        return self._start(context.Process(target=self._http.serve_grpc, args=arguments_of_grpc, name="grpc"))

    def _start_retrier(self, inherited: list[socket.socket]) -> BaseProcess:
        context = multiprocessing.get_context("fork")  # it computes on the CPU alone, whatever the workers do
        return self._start(context.Process(target=self._retrier.serve, args=(inherited,), name="retrier"))

    def _start(self, process: BaseProcess) -> BaseProcess:
        start_child(process)
        self._processes.started(process.name, process.pid)
        return process


def _number_of_groups(settings: Settings) -> int:
    """Return into how many groups the models are divided, of which each has workers of its own."""
    if settings.isolation == "none":
        return 1
    try:
        return max(1, len(open_registry(settings.registry, settings.model_dir, settings.model_name).models()))
    except RegistryError as error:
        logger.error("all models share a worker until the next start, because the registry cannot be read: %s", error)
        return 1
