"""The supervisor, which keeps the service's processes alive and ends them in order. Knows nothing about what they do.

It runs in the main thread of a process that has no other: new processes are forked from it at any time.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from service.heartbeats import Heartbeats
from service.processes.restart_policy import UNSOUND, Life, RestartPolicy, ServiceFailed
from service.processes.signals import StopRequests
from service.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_QUICK_DEATH_SECONDS = 5.0
KILL_SECONDS = 5.0

Start = Callable[[int], BaseProcess]


class Supervisor:
    """Runs the workers and HTTP processes until SIGTERM or SIGINT, and replaces those that die or hang.

    A gRPC process counts as the last HTTP process here: it starts, ends and is replaced like them.
    """

    def __init__(
        self,
        start_worker: Start,
        start_http: Start,
        heartbeats: Heartbeats,
        settings: Settings,
        *,
        workers: int,
        on_start: Callable[[], None],
        on_worker_death: Callable[[int | None, str], None],
        on_http_death: Callable[[int | None], None],
        on_stop: Callable[[], None],
        restart_policy: RestartPolicy | None = None,
        kill_seconds: float = KILL_SECONDS,
    ) -> None:
        self._start_worker = start_worker
        self._start_http = start_http
        self._heartbeats = heartbeats
        self._settings = settings
        self._worker_count = workers
        self._on_start = on_start
        self._on_worker_death = on_worker_death
        self._on_http_death = on_http_death
        self._on_stop = on_stop
        self._workers: dict[int, BaseProcess] = {}
        self._http: dict[int, BaseProcess] = {}
        self._started: dict[BaseProcess, float] = {}
        self._restart_policy = restart_policy or RestartPolicy(settings)
        self._kill_seconds = kill_seconds
        self._due: dict[int, float] = {}  # workers that are not replaced before that time
        self._quick_deaths: dict[int, int] = {}
        self._stop_requests = StopRequests()

    def run(self) -> None:
        """Start everything and serve until a stop signal; then finish the accepted requests.

        Raises:
            ServiceFailed: processes keep failing.
        """
        with self._stop_requests.listening() as wakeup:
            self._on_start()
            try:
                for number in range(self._worker_count):
                    self._launch_worker(number)
                for number in range(self._settings.front_processes):
                    self._launch_http(number)
                while not self._stop_requests.count:
                    self._wait(wakeup)
                    self._tend_workers()
                    self._tend_http()
                self._drain(wakeup)
            finally:
                self._stop_all()

    # Serving

    def _launch_worker(self, number: int) -> None:
        self._heartbeats.reset(number)
        self._workers[number] = process = self._start_worker(number)
        self._started[process] = time.monotonic()

    def _launch_http(self, number: int) -> None:
        self._http[number] = process = self._start_http(number)
        self._started[process] = time.monotonic()

    def _wait(self, wakeup: int, processes: list[BaseProcess] | None = None) -> None:
        """Wait for a signal or the end of a process, at most a quarter of a second."""
        watched = processes if processes is not None else [*self._workers.values(), *self._http.values()]
        ready = multiprocessing.connection.wait([wakeup, *(p.sentinel for p in watched)], _LOOK_SECONDS)
        if wakeup in ready:
            os.read(wakeup, 512)

    def _tend_workers(self) -> None:
        for number, process in list(self._workers.items()):
            reason = self._kill_if_stuck(number, process) if process.is_alive() else ""
            if not process.is_alive():
                reason = reason or self._reason_of(number, process)
                self._on_worker_death(process.pid, reason)
                self._replace_worker(number, process)
        for number in [number for number, due in self._due.items() if due <= time.monotonic()]:
            del self._due[number]
            self._launch_worker(number)

    def _reason_of(self, number: int, process: BaseProcess) -> str:
        if process.exitcode == UNSOUND:
            return "selftest"
        return "crashed" if self._heartbeats.is_up(number) else "failed_start"

    def _kill_if_stuck(self, number: int, process: BaseProcess) -> str:
        """Kill a worker that stopped sending heartbeats; return the reason, or '' if it is healthy."""
        if self._heartbeats.is_up(number):
            reason, limit, silence = "hung", self._settings.hang_seconds, self._heartbeats.silence(number)
        else:
            started = self._started[process]
            reason, limit, silence = "slow_start", self._settings.startup_seconds, time.monotonic() - started
        if silence <= limit:
            return ""
        logger.error("worker %d (pid %s) was silent for %.1f s and is replaced", number, process.pid, silence)
        process.kill()
        process.join()
        return reason

    def _replace_worker(self, number: int, process: BaseProcess) -> None:
        came_up = self._heartbeats.is_up(number)
        life = Life(
            came_up=came_up,
            seconds=self._heartbeats.age(number) if came_up else 0.0,
            batches=self._heartbeats.batches(number),
            exit_code=process.exitcode,
        )
        logger.error("worker %d (pid %s) ended with code %s", number, process.pid, process.exitcode)
        self._due[number] = time.monotonic() + self._restart_policy.wait_after(number, life)
        del self._workers[number]
        self._forget(process)

    def _tend_http(self) -> None:
        for number, process in list(self._http.items()):
            if process.is_alive():
                continue
            title = f"HTTP process {number}" if number < self._settings.http_processes else "gRPC process"
            logger.error("%s (pid %s) ended with code %s", title, process.pid, process.exitcode)
            self._on_http_death(process.pid)
            quick = time.monotonic() - self._started[process] < _QUICK_DEATH_SECONDS
            failures = self._quick_deaths[number] = self._quick_deaths.get(number, 0) + 1 if quick else 0
            if failures >= self._settings.max_failed_starts:
                raise ServiceFailed(f"{title} ended {failures} times in a row right after its start")
            del self._http[number]
            self._forget(process)
            self._launch_http(number)

    def _forget(self, process: BaseProcess) -> None:
        del self._started[process]
        process.join()
        process.close()

    # Stopping

    def _drain(self, wakeup: int) -> None:
        """Report not ready, then let the HTTP processes finish; workers are still replaced meanwhile."""
        logger.info("draining")
        self._heartbeats.drain()
        until = time.monotonic() + self._settings.drain_seconds
        while time.monotonic() < until and self._stop_requests.count < 2:
            self._wait(wakeup)
            self._tend_workers()
            self._tend_http()
        self._on_stop()
        for process in self._http.values():
            process.terminate()
        until = time.monotonic() + self._settings.shutdown_seconds
        while (alive := [p for p in self._http.values() if p.is_alive()]) and time.monotonic() < until:
            if self._stop_requests.count > 2:
                break
            self._wait(wakeup, [*alive, *self._workers.values()])
            self._tend_workers()
        if alive:
            logger.error("%d process(es) had unanswered requests at the end of the shutdown time", len(alive))

    def _stop_all(self) -> None:
        processes = [*self._http.values(), *self._workers.values()]
        for process in processes:
            process.terminate()
        until = time.monotonic() + self._kill_seconds
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
