"""A real service to test against, in its own processes, on a free port.

It is forked from a process that has imported it, or with --thorough started as a user does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import psutil

from service.__main__ import main
from tests.preloaded import COMMAND, Forked
from tests.processes import untraced
from tests.waiting import settled, wait_until

START_SECONDS = 60

as_commands = False
"""Whether each service is a `python -m service` from the beginning, which takes three seconds more of computing."""


def start(
    arguments: list[str], environment: dict[str, str] | None, checkout: Path | None = None
) -> subprocess.Popen[str] | Forked:
    """Start a service, that of another checkout if one is given; it ends with this process."""
    if not as_commands and not checkout:
        return Forked(main, arguments, environment=environment)
    return subprocess.Popen(
        [*COMMAND[:-1], str(checkout or COMMAND[-1]), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # so that what a test sends to the group reaches this service alone
    )


class Service:
    """A running service and a client for it.

    `traced=False` leaves its processes out of the coverage, which makes them several times slower.
    """

    def __init__(self, registry: Path | str, *options: str, traced: bool = True, checkout: Path | None = None) -> None:
        arguments = ["--registry", str(registry), "--port", "0", *options]
        self.process = start(arguments, None if traced else untraced(), checkout)
        self.log: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._heard:
                self.log.append(line)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def text(self) -> str:
        return "".join(self.log)

    def wait_for_log(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first match of `pattern` in the log, whenever it comes."""
        until = time.monotonic() + seconds
        with self._heard:
            while not (match := re.search(pattern, self.text)):
                if self.process.poll() is not None or not self._heard.wait(until - time.monotonic()):
                    break
        assert match, f"{pattern!r} never came in the log:\n{self.text}"
        return match

    def start(self) -> Service:
        """Wait until the service is ready."""
        self.url = self.wait_for_log(r"listening on (http://[^\s\"]+)")[1]
        # No limit on idle connections: to keep one, httpcore closes such as it has just given to another thread
        # (https://github.com/encode/httpcore/issues/1110).
        self.client = httpx.Client(base_url=self.url, timeout=60, limits=httpx.Limits())

        def is_ready() -> bool:
            assert self.process.poll() is None, f"ended while starting:\n{self.text}"
            return self.client.get("/readyz").status_code == 200

        wait_until(is_ready, START_SECONDS, interval=0.05, otherwise=lambda: self.text)
        return self

    def predict(self, content: bytes, content_type: str = "image/png", query: str = "") -> httpx.Response:
        return self.client.post(f"/predict{query}", content=content, headers={"content-type": content_type})

    def exchange(self, request: bytes) -> str:
        """Send bytes as they are on a connection of their own, and give the answer's head and body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            answer = b""
            while not (found := re.search(rb"content-length: (\d+)\r\n(?:.*?\r\n)?\r\n(.*)", answer, re.DOTALL)) or len(
                found[2]
            ) < int(found[1]):
                received = connection.recv(65536)
                assert received, f"the connection closed after {answer!r}"
                answer += received
        return answer.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear `labels`."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def metric_at_rest(self, name: str, **labels: str) -> float:
        """Return the metric once it no longer moves: HTTP processes publish their numbers four times a second."""
        return settled(lambda: self.metric(name, **labels), interval=0.6)

    def wait_for_metric(self, expected: float, name: str, **labels: str) -> float:
        """Return the metric once it has reached `expected`, or what it is after ten seconds."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.metric(name, **labels) >= expected, 10, interval=0.05)
        return self.metric(name, **labels)

    def processes(self, kind: Literal["http", "worker", "retrier"]) -> list[psutil.Process]:
        """The service's living processes of a kind, which is told by the sockets that they have."""
        return [child for child in psutil.Process(self.process.pid).children() if self._kind(child) == kind]

    def _kind(self, process: psutil.Process) -> str:
        sockets = self.sockets(process)
        if sockets is None:
            return "gone"
        if sockets:
            return "http"
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("retrier" in str(c.laddr) for c in process.net_connections("unix")):
                return "retrier"
        return "worker"

    def sockets(self, process: psutil.Process) -> list[str] | None:
        """The states of a process's sockets on the service's port; None if it is no more."""
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return [c.status for c in process.net_connections("tcp") if c.laddr.port == self.port]
        except psutil.NoSuchProcess:
            return None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if hasattr(self, "client"):
            self.client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr
        self.process.stderr.close()


@contextlib.contextmanager
def serving(registry: Path | str, *options: str, traced: bool = True) -> Iterator[Service]:
    """A ready service, ended by force when the block is left."""
    service = Service(registry, *options, traced=traced)
    try:
        yield service.start()
    finally:
        service.close()
