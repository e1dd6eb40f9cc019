"""The supervisor, which keeps the service's processes alive and ends them in order. Knows nothing about what they do.

It runs in the main thread of a process that has no other: new processes are forked from it at any time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from service.counting import counted
from service.heartbeats import Heartbeats
from service.processes.restart_policy import OVERSIZED, UNSOUND, Life, RestartPolicy, ServiceFailed
from service.processes.signals import StopRequests, end_child
from service.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_HELD_UP_SECONDS = 1.0  # between two looks
_QUICK_DEATH_SECONDS = 5.0
_RETRIER_WAIT_SECONDS = 1.0  # before one that died so soon is replaced, for it may do so each time
KILL_SECONDS = 5.0

Start = Callable[[int], BaseProcess]


class Supervisor:
    """Runs the workers and HTTP processes until a stop signal, and replaces those that die or hang.

    A gRPC process counts as the last HTTP process here: it starts, ends and is replaced like them. `start_retrier`
    starts the retrier, without which the service would go on. `on_blame` hears the identity of a version when a worker
    died young, or hung, while it computed it.
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
        start_retrier: Callable[[], BaseProcess] | None = None,
        on_blame: Callable[[str], None] = lambda _version: None,
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
        self._start_retrier = start_retrier
        self._on_blame = on_blame
        self._retrier: BaseProcess | None = None
        self._retrier_due = 0.0
        self._looked = math.inf
        self._was_held_up = False
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
                self.start()
                while not self._stop_requests.count:
                    self._wait(wakeup)
                    self.tend()
                self._drain(wakeup)
            finally:
                self._stop_all()

    # Serving

    def start(self) -> None:
        """Start every process."""
        for number in range(self._worker_count):
            self._launch_worker(number)
        for number in range(self._settings.front_processes):
            self._launch_http(number)
        self._tend_retrier()

    def tend(self) -> None:
        """Replace what has died or hangs."""
        self._tend_workers()
        self._tend_http()
        self._tend_retrier()
        _reap_orphans(but=[process.pid for process in self._processes()])

    def _launch_worker(self, number: int) -> None:
        self._heartbeats.reset(number)
        self._workers[number] = process = self._start_worker(number)
        self._started[process] = time.monotonic()

    def _launch_http(self, number: int) -> None:
        self._heartbeats.other_beat(number, 0.0)
        self._http[number] = process = self._start_http(number)
        self._started[process] = time.monotonic()

    def _wait(self, wakeup: int, processes: list[BaseProcess] | None = None) -> None:
        """Wait for a signal or the end of a process, at most a quarter of a second."""
        watched = processes if processes is not None else self._processes()
        ready = multiprocessing.connection.wait([wakeup, *(p.sentinel for p in watched)], _LOOK_SECONDS)
        if wakeup in ready:
            os.read(wakeup, 512)
        # Where this process did not get to run, the others may not have either, and are not to be taken for stuck.
        now = time.monotonic()
        self._was_held_up = now - self._looked > _HELD_UP_SECONDS
        self._looked = now

    def _processes(self) -> list[BaseProcess]:
        others = [self._retrier] if self._retrier else []
        return [*self._workers.values(), *self._http.values(), *others]

    def _tend_workers(self) -> None:
        for number, process in list(self._workers.items()):
            reason = self._kill_if_stuck(number, process) if process.is_alive() else ""
            if not process.is_alive():
                reason = reason or self._reason_of(number, process)
                self._on_worker_death(process.pid, reason)
                self._replace_worker(number, process, reason)
        for number in [number for number, due in self._due.items() if due <= time.monotonic()]:
            del self._due[number]
            self._launch_worker(number)

    def _reason_of(self, number: int, process: BaseProcess) -> str:
        if process.exitcode == UNSOUND:
            return "selftest"
        if process.exitcode == OVERSIZED:
            return "memory"
        return "crashed" if self._heartbeats.is_up(number) else "failed_start"

    def _kill_if_stuck(self, number: int, process: BaseProcess) -> str:
        """Kill a worker that stopped sending heartbeats; return the reason, or '' if it is healthy."""
        if self._heartbeats.is_up(number):
            reason, limit, silence = "hung", self._settings.hang_limit_seconds, self._heartbeats.silence(number)
        else:
            started = self._started[process]
            reason, limit, silence = "slow_start", self._settings.startup_seconds, time.monotonic() - started
        if silence <= limit or self._was_held_up:
            return ""
        logger.error("worker %d (pid %s) was silent for %.1f s and is replaced", number, process.pid, silence)
        process.kill()
        process.join()
        return reason

    def _replace_worker(self, number: int, process: BaseProcess, reason: str) -> None:
        came_up = self._heartbeats.is_up(number)
        life = Life(
            came_up=came_up,
            seconds=self._heartbeats.age(number) if came_up else 0.0,
            batches=self._heartbeats.batches(number),
            exit_code=process.exitcode,
            computed=self._heartbeats.computing(number) if came_up else "",
        )
        doing = f" while it computed {life.computed.partition(' ')[0]}" if life.computed else ""
        logger.error("worker %d (pid %s) ended with code %s%s", number, process.pid, process.exitcode, doing)
        if life.computed and (reason == "hung" or not life.is_sound):
            self._on_blame(life.computed)
        self._due[number] = time.monotonic() + self._restart_policy.wait_after(number, life)
        del self._workers[number]
        self._forget(process)

    def _tend_http(self) -> None:
        for number, process in list(self._http.items()):
            title = f"HTTP process {number}" if number < self._settings.http_processes else "gRPC process"
            self._kill_if_silent(number, process, title)
            if process.is_alive():
                continue
            logger.error("%s (pid %s) ended with code %s", title, process.pid, process.exitcode)
            self._on_http_death(process.pid)
            quick = time.monotonic() - self._started[process] < _QUICK_DEATH_SECONDS
            failures = self._quick_deaths[number] = self._quick_deaths.get(number, 0) + 1 if quick else 0
            if failures >= self._settings.max_failed_starts:
                raise ServiceFailed(f"{title} ended {counted(failures, 'time')} in a row right after its start")
            del self._http[number]
            self._forget(process)
            self._launch_http(number)

    def _kill_if_silent(self, slot: int, process: BaseProcess, title: str) -> None:
        """Kill a process whose event loop stands still, or does not begin to turn."""
        silence, limit = self._heartbeats.other_silence(slot), self._settings.hang_limit_seconds
        if silence == math.inf:
            silence, limit = time.monotonic() - self._started[process], self._settings.startup_seconds
        if silence > limit and not self._was_held_up and process.is_alive():
            logger.error("%s (pid %s) was silent for %.1f s and is replaced", title, process.pid, silence)
            process.kill()
            process.join()

    def _tend_retrier(self) -> None:
        if self._start_retrier is None:
            return
        process = self._retrier
        if process:
            self._kill_if_silent(self._settings.front_processes, process, "retrier")
            if process.is_alive():
                return
            logger.error("retrier (pid %s) ended with code %s", process.pid, process.exitcode)
            quick = time.monotonic() - self._started[process] < _QUICK_DEATH_SECONDS
            self._retrier_due = time.monotonic() + (_RETRIER_WAIT_SECONDS if quick else 0.0)
            self._retrier = None
            self._forget(process)
        if time.monotonic() >= self._retrier_due:
            self._heartbeats.other_beat(self._settings.front_processes, 0.0)
            self._retrier = self._start_retrier()
            self._started[self._retrier] = time.monotonic()

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
            self.tend()
        self._on_stop()
        for process in self._http.values():
            end_child(process)
        until = time.monotonic() + self._settings.shutdown_seconds
        while (alive := [p for p in self._http.values() if p.is_alive()]) and time.monotonic() < until:
            if self._stop_requests.count > 2:
                break
            self._wait(wakeup, [*alive, *self._workers.values()])
            self._tend_workers()
            self._tend_retrier()
        processes = counted(len(alive), "process", "processes")
        if alive and self._stop_requests.count > 2:
            logger.warning("%s with unanswered requests must end at once, as three signals ask", processes)
        elif alive:
            logger.error("%s had unanswered requests at the end of the shutdown time", processes)

    def _stop_all(self) -> None:
        processes = self._processes()
        for process in processes:
            end_child(process)
        until = time.monotonic() + self._kill_seconds
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _reap_orphans(but: list[int | None]) -> None:
    """Wait for what dead children left behind: a container's first process inherits it, and its zombies stay."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):  # there is none at all
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in but:
            os.waitpid(ended.si_pid, 0)
