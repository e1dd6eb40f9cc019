"""A worker process, as LitServe starts it: loads the registry's models on one device and serves them."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litserve as ls
import torch
from litserve.loops.base import LitLoop

from service.contract.registry import RegistryError
from service.engine.line_up import LineUp
from service.engine.worker import MemoryLimit, OversizedWorkerError, Worker
from service.heartbeats import Heartbeats
from service.logs import configure_logging
from service.memory import return_freed_memory
from service.model import cuda, torchscript
from service.model.model import DeviceFailedError, Model
from service.model.selftest import SelfTests, UnsoundWorkerError
from service.processes.restart_policy import HOPELESS, OVERSIZED, UNSOUND
from service.processes.signals import leave_signals_to_supervisor
from service.processes.sockets import close_all
from service.rollout.catalogue import Catalogue
from service.rollout.confinement import confine_worker
from service.rollout.groups import Groups
from service.rollout.loader import Loader, load_on
from service.rollout.mirror import cache_folder, open_mirror
from service.rollout.sandbox import Limits, Sandbox, memory_of
from service.rollout.unloaded import Unloaded
from service.rollout.verdicts import Verdicts
from service.rollout.watcher import watch
from service.settings import Settings
from service.telemetry.metrics.recorder import Recorder

logger = logging.getLogger(__name__)


class BlockLoop(LitLoop):  # type: ignore[misc]
    """LitServe's extension point for a worker's main loop; ours is `Worker.run`."""

    def __call__(self, lit_api: Classifier, *_: object, **__: object) -> None:
        lit_api.serve()


class Classifier(ls.LitAPI):  # type: ignore[misc]
    """The LitAPI of each worker process: `setup` loads the models, `serve` computes until the service ends.

    `number` and `not_ours`, the sockets that a fork inherits and must not keep open, are set before each start.
    """

    def __init__(
        self, settings: Settings, heartbeats: Heartbeats, listeners: list[socket.socket], run_dir: Path, groups: Groups
    ) -> None:
        super().__init__(loop=BlockLoop())
        self._groups = groups
        self._run_dir = run_dir
        self._settings = settings
        self._heartbeats = heartbeats
        self._listeners = listeners
        self._verdicts = Verdicts(run_dir / "verdicts.jsonl")
        self._recorder: Recorder  # its numbers outlive this worker, see `Recorder.absorb`
        self._catalogue: Catalogue
        self._unloaded: Unloaded
        self._line_up: LineUp
        self._settled: threading.Event  # whether loading a version must not slow what is served
        self.number = 0
        self.not_ours: list[socket.socket] = []

    def setup(self, device: str | list[str]) -> None:
        """Load what the registry asks for; ends the process with HOPELESS if nothing in it can serve."""
        leave_signals_to_supervisor()
        close_all(self.not_ours)
        settings = self._settings
        configure_logging(settings.log_level, settings.log_format)
        self._recorder = Recorder(self._run_dir)
        torch.set_num_threads(1)
        torchscript.start()  # before the sandbox is forked
        self._settled = threading.Event()  # here, because it does not travel to a process that is spawned
        own_device = only_device(device)
        load = functools.partial(load_on, own_device, settings)
        sandbox = Sandbox(load, Limits(settings.trial_seconds, settings.trial_memory_bytes), own_device)
        self._confine(own_device)
        loader = Loader(sandbox.run, load, self._verdicts, is_serving=self._settled.is_set)
        self._unloaded = Unloaded(self._run_dir)
        self._catalogue = Catalogue(
            open_mirror(settings, self._run_dir, self._recorder.registry_read),
            loader.load,
            keep_versions=settings.keep_versions,
            choose=self._choice(),
            required=settings.required_models or frozenset(),
            on_load=self._recorder.load,
            unloaded=self._unloaded.names,
            max_artifact_bytes=settings.trial_memory_bytes,
            grace_seconds=settings.timeout_seconds,
        )
        try:
            # A replaced worker returns with everything that it served, because requests may be waiting for it.
            is_first = not self._verdicts.has_any()
            self._line_up = (
                self._catalogue.first_line_up(settings.default_model) if is_first else self._catalogue.restored()
            )
        except RegistryError as error:
            logger.error("%s", error)
            raise SystemExit(HOPELESS) from error

    def _confine(self, device: torch.device) -> None:
        """Give up what this process needs neither to read a registry nor to compute, before it sees an artifact."""
        cuda.start(device)
        cache = cache_folder(self._settings, self._run_dir)
        with contextlib.suppress(OSError):  # then nothing can be kept in it, which is logged when that is tried
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        registry = self._settings.model_dir or self._settings.registry
        confine_worker([self._run_dir, cache], connects="://" in registry)

    def _choice(self) -> Callable[[list[str]], list[str]] | None:
        """Return what chooses this worker's models of all, or None if it serves them all."""
        if self._groups.number == 1:
            return None
        return functools.partial(self._groups.choose, self._groups.of_worker(self.number))

    def serve(self) -> None:
        """Serve the line-up, and each that follows it, until the supervisor is gone."""
        parent = multiprocessing.parent_process()
        if parent is None:
            raise RuntimeError("a worker must be a child of the supervisor. Given: no parent process")
        worker = Worker(
            self._line_up,
            self._listeners[self.number],
            max_batch_size=self._settings.max_batch_size,
            beat=functools.partial(self._heartbeats.beat, self.number),
            on_compute=self._blame,
            suspect=self._heartbeats.suspect(self.number),
            memory=MemoryLimit(self._settings.worker_memory_bytes, functools.partial(memory_of, os.getpid())),
            self_tests=SelfTests(self._settings.selftest_seconds, self._recorder.selftest),
        )
        if self._settings.model_dir:  # what is in it never changes
            return_freed_memory()
        else:
            watch(
                self._catalogue,
                self._line_up,
                worker.offer,
                poll_seconds=self._settings.poll_seconds,
                settled=self._settled,
                wait=self._unloaded.wait,
            )
        try:
            worker.run(stop=parent.sentinel)
        except UnsoundWorkerError as error:
            logger.error("this worker must be replaced: %s", error)
            raise SystemExit(UNSOUND) from error
        except OversizedWorkerError as error:
            logger.error("this worker must be replaced: %s", error)
            raise SystemExit(OVERSIZED) from error
        except DeviceFailedError as error:
            logger.error("this worker must be replaced: the device must compute. Given: %s", error)
            raise SystemExit(1) from error

    def _blame(self, model: Model | None) -> None:
        self._heartbeats.compute(self.number, model.identity if model else None)

    def predict(self, x: Any, **_: object) -> Any:
        """Satisfy LitServe, which requires this method and never calls it here."""
        raise NotImplementedError("blocks are computed by Worker")


def worker_devices(device: str) -> list[str]:
    """Return one device for each worker: every CUDA device, or the CPU.

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


def only_device(given: str | list[str]) -> torch.device:
    """Return the device of one worker, which LitServe names as "cpu" but as ["cuda:0"]."""
    if isinstance(given, str):
        return torch.device(given)
    (name,) = given
    return torch.device(name)
