"""The numbers that the service's processes share in memory: heartbeats, and whether the service is draining."""

from __future__ import annotations

import multiprocessing
import time

_SPAWN = multiprocessing.get_context("spawn")


class Heartbeats:
    """The workers' heartbeats, each written by its worker and read by others.

    The object reaches workers by pickle and HTTP processes by fork.

    Times are on time.monotonic()'s clock, which all processes of a machine share.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
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
