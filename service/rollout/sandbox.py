"""A sandbox that tries a version out in a process of its own, which may hang, crash or eat memory without harm.

A worker computes on several threads and may hold a device, so it cannot be forked. It therefore keeps a prober: a
process that was forked from it before all that and does nothing but fork again for each trial. So a trial starts in
milliseconds, with torch imported, on any device. A prober that dies is replaced by a new program, which takes seconds.
Before a trial sees the artifact it gives up every right that it does not need.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import torch

from service.contract.manifest import ModelManifest
from service.model import cuda
from service.model.model import Load, UnfitModelError
from service.rollout.confinement import confine_trial

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.02
_CLOCK_SECONDS = 20
"""Wall-clock seconds for each of computing: under full load a trial gets little of a core, but a deadlock must end."""

_ANSWER_SECONDS = 10.0
"""Longer than the longest trial, a prober has to answer within."""

_LOWEST_PRIORITY = 19


class Limits(NamedTuple):
    """The limits of a trial: seconds of computing, and bytes on top of those that it starts with."""

    seconds: float
    memory_bytes: int


class Sandbox:
    """A prober that runs trials; create it while the process has one thread and no device. It ends with the process.

    `load` must travel to a process that is spawned; it loads on `device`.
    """

    def __init__(self, load: Load, limits: Limits, device: torch.device) -> None:
        self._load = load
        self._device = device
        self._limits = limits
        self._start("fork")

    def _start(self, method: Literal["fork", "spawn"]) -> None:
        fork, spawn = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
        context: ForkContext | SpawnContext = fork if method == "fork" else spawn
        self._connection, theirs = context.Pipe()
        # A fork has a copy of the worker's end; with that open, the worker's death would not be seen.
        not_ours = self._connection if method == "fork" else None
        arguments = (self._load, self._limits, self._device, theirs, not_ours)
        self._prober = context.Process(target=_probe, args=arguments, daemon=True)
        self._prober.name = f"{multiprocessing.current_process().name}-prober"
        self._prober.start()
        theirs.close()

    def run(self, manifest: ModelManifest, artifact: bytes, *, gently: bool = False) -> None:
        """Load a version in a trial, which yields to every other process if `gently`.

        Raises:
            UnfitModelError: it did not pass.
        """
        reason = self._try(manifest, artifact, gently=gently)
        if reason is None:
            reason = self._try(manifest, artifact, gently=gently)
        if reason is None:
            reason = "trying it must not end the process that does it. Given: it did so twice"
        if reason:
            raise UnfitModelError(f"{manifest.name}@{manifest.version}: {reason}")

    def _try(self, manifest: ModelManifest, artifact: bytes, *, gently: bool) -> str | None:
        """Return why the version is unfit, or ''; None if the prober died and another was started."""
        try:
            self._connection.send((manifest.model_dump_json(), artifact, gently))
            if self._connection.poll(self._limits.seconds * _CLOCK_SECONDS + _ANSWER_SECONDS):
                return str(self._connection.recv())
            logger.error("the prober (pid %s) does not answer and is replaced", self._prober.pid)
        except (EOFError, OSError):
            logger.error("the prober (pid %s) died and is replaced", self._prober.pid)
        self._connection.close()
        self._prober.kill()
        self._prober.join()
        self._start("spawn")  # this process may have threads and a device by now, and must not be forked
        return None


def _probe(
    load: Load, limits: Limits, device: torch.device, connection: Connection, not_ours: Connection | None
) -> None:
    if not_ours:
        not_ours.close()
    os.setsid()  # what a terminal sends to all is for the supervisor; this process ends when its worker does
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the worker, if it comes to an end, sends
    with contextlib.suppress(EOFError, BrokenPipeError):  # the worker is gone
        while True:
            manifest, artifact, gently = connection.recv()
            work = _Work(load, device, ModelManifest.model_validate_json(manifest), artifact)
            trial = _Trial(work, limits, gently=gently)
            connection.send(trial.outcome(connection))


class _Work(NamedTuple):
    """What a trial does."""

    load: Load
    device: torch.device
    manifest: ModelManifest
    artifact: bytes


class _Trial:
    """A process that loads a version and reports what is wrong with it."""

    def __init__(self, work: _Work, limits: Limits, *, gently: bool) -> None:
        self._limits = limits
        self._reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
        self._pid = os.fork()
        if self._pid == 0:
            close_all_but(writer)
            limit_this_process(gently=gently)
            seconds = math.ceil(limits.seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            _report(writer, work)
        writer.close()

    def outcome(self, connection: Connection) -> str:
        """Return why the version is unfit, or ''; whatever happens, the process is gone afterwards.

        Raises:
            EOFError: `connection` has ended, so nobody waits for the outcome.
        """
        try:
            found = self._watch(connection)
        finally:
            os.kill(self._pid, signal.SIGKILL)  # not waited for yet, so it is still there, if only by name
            _, status = os.waitpid(self._pid, 0)
            self._reader.close()
        return self._cause_of(status) if found is None else found

    def _watch(self, connection: Connection) -> str | None:
        """Return what the process reports or which limit it exceeds; None if it dies without a report."""
        initial = memory_of(self._pid)
        limit = time.monotonic() + self._limits.seconds * _CLOCK_SECONDS
        while not (ready := wait([self._reader, connection], _WATCH_SECONDS)):
            # Not RLIMIT_AS: CUDA reserves more addresses than any machine has memory.
            if memory_of(self._pid) - initial > self._limits.memory_bytes:
                return f"loading it must take at most {self._limits.memory_bytes:,} bytes of memory. Given: more"
            if time.monotonic() > limit:
                return self._too_slow()
        if connection in ready:
            raise EOFError
        try:
            return str(self._reader.recv())
        except EOFError:
            return None

    def _cause_of(self, status: int) -> str:
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGXCPU:
            return self._too_slow()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"loading it must not end the process. Given: {how}"

    def _too_slow(self) -> str:
        return (
            f"it must load, answer its golden sample and warm up within {self._limits.seconds:g} s of computing. "
            "Given: no answer"
        )


def close_all_but(connection: Connection) -> None:
    """Close what this process inherited, but its standard streams and `connection`."""
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def limit_this_process(*, gently: bool) -> None:
    """Let this process die without a core, before others where memory runs out, and yield to them if `gently`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux: when memory runs out, this process is killed and not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    if gently:
        os.nice(_LOWEST_PRIORITY)


def _report(writer: Connection, work: _Work) -> NoReturn:
    manifest = work.manifest
    logging.disable(logging.INFO)  # the worker logs the same when it loads the version itself
    try:
        cuda.start(work.device)  # opens the driver's files and sockets, which is refused later
        confine_trial()
        work.load(manifest, work.artifact)
        writer.send("")
    except UnfitModelError as error:
        writer.send(str(error).removeprefix(f"{manifest.name}@{manifest.version}: "))
    except Exception as error:
        logger.exception("a trial met a bug")
        writer.send(f"loading it must not fail. Given: {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def memory_of(pid: int) -> int:
    """Return the bytes that the process holds in memory; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
