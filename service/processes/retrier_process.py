"""The process that computes again what dead workers held: what it is made of, and its life from fork to exit."""

from __future__ import annotations

import functools
import multiprocessing
import socket
from pathlib import Path

import torch

from service.contract.manifest import ModelManifest
from service.engine.quarantine import Quarantine
from service.heartbeats import Heartbeats
from service.processes.signals import leave_signals_to_supervisor
from service.processes.sockets import close_all
from service.rollout.mirror import open_mirror
from service.rollout.retrier import Limits, Retrier
from service.rollout.retrier_child import ForkedChild
from service.settings import Settings


class RetrierProcess:
    """Everything that the retrier consists of, built once before the forks; `serve` is its main function."""

    def __init__(
        self,
        settings: Settings,
        heartbeats: Heartbeats,
        quarantine: Quarantine,
        listener: socket.socket,
        run_dir: Path,
    ) -> None:
        self._settings = settings
        self._heartbeats = heartbeats
        self._quarantine = quarantine
        self._listener = listener
        self._run_dir = run_dir

    def serve(self, inherited: list[socket.socket]) -> None:
        """Retry what is sent until the supervisor is gone; `inherited` are the sockets that a fork must close."""
        leave_signals_to_supervisor()
        close_all(inherited)
        torch.set_num_threads(1)  # so that this process has one thread, and may be forked
        parent = multiprocessing.parent_process()
        if parent is None:
            raise RuntimeError("a retrier must be a child of the supervisor. Given: no parent process")
        # Half of what a worker may take for a whole batch, so that the others are still answered in time.
        seconds = self._settings.hang_limit_seconds / 2
        Retrier(
            self._listener,
            parent.sentinel,
            functools.partial(ForkedChild, self._fetch, seconds),
            limits=Limits(seconds, self._settings.trial_memory_bytes),
            on_crash=functools.partial(self._quarantine.record, cause="image"),
            beat=functools.partial(self._heartbeats.other_beat, self._settings.front_processes),
        ).run()

    def _fetch(self, manifest: ModelManifest) -> bytes:
        # In the child, which may hang in it without harm.
        return open_mirror(self._settings, self._run_dir).artifact(manifest)
