"""Processes forked from one that has imported torch and the service, which takes three seconds of computing.

Knows nothing about ports or models.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch is imported, as `serve` does

FORKS = multiprocessing.get_context("forkserver")
"""The context of such processes. The first of them waits until these modules are imported."""
FORKS.set_forkserver_preload(
    [
        "tests.preloaded",
        "service.commands.serve",
        "service.logs",
        "service.processes.server",
        "tests.registries",
        "tests.service.rollout.retrying",
        "tests.service.rollout.trying",
    ]
)

COMMAND = (
    sys.executable,
    "-c",
    "import ctypes, runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    f"ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}); "
    "runpy.run_module('service', run_name='__main__', alter_sys=True)",
    str(Path(__file__).parents[1]),
)
"""`python -m service` that is sent SIGTERM when the process that started it ends, however that ends."""


class Forked:
    """A process that runs a function in a session of its own; to a test it is like a `subprocess.Popen`.

    One of its standard streams is a pipe to here, what is written to the other one is lost. It is sent SIGTERM when
    this process ends, however that ends.
    """

    stdout: TextIO | None = None
    stderr: TextIO | None = None

    def __init__(
        self,
        act: Callable[..., int | None],
        *arguments: Any,
        pipe: int = 2,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        reader, writer = FORKS.Pipe(duplex=False)
        everything = (act, arguments, writer, pipe, dict(os.environ if environment is None else environment))
        self._process = FORKS.Process(target=_run, args=everything, name="MainProcess")
        self._process.start()
        writer.close()
        self.pid: int = self._process.pid or 0
        stream = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        setattr(self, {1: "stdout", 2: "stderr"}[pipe], stream)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    act: Callable[..., int | None], arguments: tuple[Any, ...], writer: Connection, pipe: int, env: dict[str, str]
) -> None:
    # The parent, from which this is forked, ends with the process that asked for it, unless this keeps it alive.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` has it ignored
    os.dup2(writer.fileno(), pipe)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 3 - pipe)
    writer.close()
    os.environ.clear()
    os.environ.update(env)
    sys.exit(act(*arguments))
