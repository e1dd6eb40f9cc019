"""The numbers that the service's processes share in memory: heartbeats, and whether the service is draining."""

from __future__ import annotations

import math
import multiprocessing
import time

_SPAWN = multiprocessing.get_context("spawn")

_VERSION_BYTES = 256


class Heartbeats:
    """The workers' heartbeats, each written by its worker and read by others, and those of the other processes.

    `others` is how many other processes there are. The object reaches workers by pickle and HTTP processes by fork.

    Times are on time.monotonic()'s clock, which all processes of a machine share.
    """

    def __init__(self, workers: int, others: int = 1) -> None:
        self.workers = workers
        self._other_beats = _SPAWN.RawArray("d", others)
        self._computing = _SPAWN.RawArray("b", workers)
        self._suspects = _SPAWN.RawArray("b", workers)
        self._versions = [_SPAWN.RawArray("c", _VERSION_BYTES) for _ in range(workers)]
        self._beats = _SPAWN.RawArray("d", workers)
        self._up_since = _SPAWN.RawArray("d", workers)
        self._batches = _SPAWN.RawArray("Q", workers)
        self._draining = _SPAWN.RawValue("b", 0)

    def beat(self, worker: int, now: float, batches: int) -> None:
        """Record that the worker is alive and has answered `batches` batches."""
        self._batches[worker] = batches
        self._beats[worker] = now
        self._up_since[worker] = self._up_since[worker] or now

    def reset(self, worker: int) -> None:
        """Forget a worker's heartbeats, before a new process takes its place."""
        self._beats[worker] = self._up_since[worker] = 0.0
        self._batches[worker] = 0
        self._suspects[worker], self._computing[worker] = self._computing[worker], 0

    def compute(self, worker: int, version: bytes | None) -> None:
        """Record which version the worker computes from now on, by its identity; None if none."""
        if version is None:
            self._computing[worker] = 0
            return
        if self._versions[worker].value != version:
            self._versions[worker].value = version[: _VERSION_BYTES - 1]
        self._computing[worker] = 1

    def computing(self, worker: int) -> str:
        """Return the identity of the version that the worker computes, or was computing when it died; '' if none."""
        return self._versions[worker].value.decode(errors="replace") if self._computing[worker] else ""

    def suspect(self, worker: int) -> bytes:
        """Return the identity of the version that a worker's predecessor was computing when it died; b'' if none.

        To be called before the worker computes.
        """
        return bytes(self._versions[worker].value) if self._suspects[worker] else b""

    def other_beat(self, number: int, now: float) -> None:
        """Record that a process that is no worker is alive; 0 forgets its heartbeats."""
        self._other_beats[number] = now

    def other_silence(self, number: int) -> float:
        """Return the seconds since that process's last heartbeat; infinity before its first."""
        beat = float(self._other_beats[number])
        return time.monotonic() - beat if beat else math.inf

    def is_up(self, worker: int) -> bool:
        """Return whether the worker has finished loading."""
        return bool(self._beats[worker] > 0.0)

    def any_up(self) -> bool:
        """Return whether any worker has finished loading."""
        return any(self.is_up(worker) for worker in range(len(self._beats)))

    def silence(self, worker: int) -> float:
        """Return the seconds since the worker's last heartbeat."""
        return time.monotonic() - float(self._beats[worker])

    def age(self, worker: int) -> float:
        """Return the seconds since the worker finished loading."""
        return time.monotonic() - float(self._up_since[worker])

    def batches(self, worker: int) -> int:
        """Return how many batches the worker has answered."""
        return int(self._batches[worker])

    @property
    def draining(self) -> bool:
        """Whether the service is about to stop and should get no new traffic."""
        return bool(self._draining.value)

    def drain(self) -> None:
        """Announce that the service is about to stop."""
        self._draining.value = 1
