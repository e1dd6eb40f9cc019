"""A `Supervisor` over processes that only live and die, which prints what happens, line by line.

Its plan says how each worker and HTTP process behaves at its first start, at its second, and so on (the last
goes on for ever), how long the stubborn are waited for and those that die too often wait, and the settings.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from typing import Any

from service.heartbeats import Heartbeats
from service.processes.restart_policy import HOPELESS, OVERSIZED, RestartPolicy, ServiceFailed
from service.processes.signals import END, STOP_SIGNALS, ignore
from service.processes.supervisor import Supervisor
from service.settings import Settings

STOP = (*STOP_SIGNALS, END)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # whole lines, from whichever process


class Stage:
    def __init__(self, plan: dict[str, list[str]], heartbeats: Heartbeats) -> None:
        self._plan = plan
        self._heartbeats = heartbeats
        self._starts: dict[tuple[str, int], int] = {}

    def start(self, kind: str, number: int) -> BaseProcess:
        times = self._starts[kind, number] = self._starts.get((kind, number), 0) + 1
        behaviour = self._plan[kind][min(times, len(self._plan[kind])) - 1]
        if behaviour == "cannot start":
            raise OSError("no process to be had")
        process = multiprocessing.get_context("fork").Process(target=self._live, args=(kind, number, behaviour))
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # a signal waits until the child has handlers of its own
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        return process

    def _live(self, kind: str, number: int, behaviour: str) -> None:
        signal.set_wakeup_fd(-1)
        ignore()
        signal.signal(END, signal.SIG_IGN if behaviour == "stubborn" else lambda *_: self._end(kind, behaviour))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        if behaviour == "fails":
            say(kind, number, "fails", os.getpid())
            os._exit(1)
        if behaviour == "hopeless":
            os._exit(HOPELESS)
        if kind == "worker" and behaviour != "never up":
            batches = 1000 if behaviour == "works and dies" else 0
            self._heartbeats.beat(number, time.monotonic(), batches)
        if kind != "worker":
            self._heartbeats.other_beat(number, time.monotonic())
        say(kind, number, "lives", os.getpid())
        if behaviour == "leaves an orphan":
            if orphan := os.fork():
                say(kind, "leaves", orphan)
            os._exit(1)
        if behaviour in ("dies", "works and dies"):
            os._exit(1)
        if behaviour == "dies computing":
            self._heartbeats.compute(number, b"rows@1 digest")
            os._exit(1)
        if behaviour == "oversized":
            os._exit(OVERSIZED)
        while True:
            time.sleep(0.02)
            if behaviour == "watches" and self._heartbeats.draining:
                say(kind, "sees draining")
                behaviour = "steady"
            if behaviour not in ("never up", "hangs"):
                self._beat(kind, number)

    def _beat(self, kind: str, number: int) -> None:
        if kind == "worker":
            self._heartbeats.beat(number, time.monotonic(), 0)
        else:
            self._heartbeats.other_beat(number, time.monotonic())

    def _end(self, kind: str, behaviour: str) -> None:
        say(kind, "is asked to end", "while draining" if self._heartbeats.draining else "while serving")
        if behaviour == "slow":
            time.sleep(0.5)
        say(kind, "ends")
        os._exit(0)


class Errors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.levelname, record.getMessage())


def main(plan: dict[str, Any]) -> None:
    logging.getLogger().addHandler(Errors(logging.ERROR))
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: as a container's first process
    settings = Settings(**plan["settings"])
    heartbeats = Heartbeats(plan["workers"], settings.front_processes + 1)
    stage = Stage(plan, heartbeats)
    supervisor = Supervisor(
        lambda number: stage.start("worker", number),
        lambda number: stage.start("http", number),
        heartbeats,
        settings,
        workers=plan["workers"],
        on_start=lambda: say("on_start"),
        on_worker_death=lambda pid, reason: say("on_worker_death", pid, reason),
        on_http_death=lambda pid: say("on_http_death", pid),
        on_stop=lambda: say("on_stop"),
        start_retrier=(lambda: stage.start("retrier", settings.front_processes)) if plan["retrier"] else None,
        on_blame=lambda version: say("on_blame", version),
        restart_policy=RestartPolicy(settings, first_wait_seconds=plan["first_wait_seconds"]),
        kill_seconds=plan["kill_seconds"],
    )
    previous = signal.getsignal(signal.SIGTERM)
    try:
        supervisor.run()
    except (OSError, ServiceFailed) as error:
        say(type(error).__name__, error)
    say("ended with", len(multiprocessing.active_children()), "left over")
    if signal.getsignal(signal.SIGTERM) != previous or signal.set_wakeup_fd(-1) != -1:
        say("signals are not as they were")
