"""A contestant's processes: started, waited for, measured and ended. Knows nothing of who competes."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.machine import pss_bytes
from benchmarks.pictures import Pixels
from benchmarks.serving.contestants import Contestant
from benchmarks.serving.load import Posts
from benchmarks.serving.requests import Request

START_SECONDS = 120
CHECKED_TOGETHER = 16

_MARK = "ARGMAX_BENCHMARK_RUN"  # in the environment of each process of a run, whoever its parent is by now


class Running:
    """A contestant that answers on `port`."""

    def __init__(self, port: int, model: str, run: str) -> None:
        self.port = port
        self.seconds_to_ready = 0.0  # from the start until its first answer
        self._model = model
        self._run = run

    def url(self, request: Request) -> str:
        return request.url(self.port, self._model)

    def family(self) -> list[psutil.Process]:
        """Return its living processes, daemons among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._run and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU time its processes have used so far."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def pss_bytes(self) -> int:
        """Return the memory of its processes together, what they share counted once."""
        return pss_bytes(self.family())

    def wrong_answers(self, request: Request, pixels: Pixels, classes: Sequence[int]) -> int:
        """Return how many images it does not answer with their class, asked sixteen at a time."""
        url, posts = self.url(request), request.posts(pixels)

        def count(start: int) -> int:
            wrong = 0
            for number in range(start, len(classes), CHECKED_TOGETHER):
                status, headers, body = _ask(url, posts, number)
                wrong += status != HTTPStatus.OK or request.class_in(headers, body) != classes[number]
            return wrong

        with ThreadPoolExecutor(CHECKED_TOGETHER) as pool:
            return sum(pool.map(count, range(CHECKED_TOGETHER)))


@contextlib.contextmanager
def running(
    contestant: Contestant, registry: Path, model: Path, *, first: Posts | None, port: int
) -> Iterator[Running]:
    """Start a contestant, wait until it answers the first of these requests, and end every process of it afterwards.

    `first=None` waits for /readyz instead.

    Raises:
        RuntimeError: it does not answer.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    runs = Running(port, model.parent.parent.name, uuid.uuid4().hex)
    command = [part.format(port=port, registry=registry, model=model) for part in contestant.command]
    places = {"PORT": str(port), "MODEL": str(model), "MODEL_NAME": runs._model, "BENCH_DIR": str(folder)}
    variables = {**os.environ, **places, **contestant.variables, _MARK: runs._run}
    begin = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=contestant.folder, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = runs.url(contestant.requests[0]) if first else f"http://127.0.0.1:{port}/readyz"
        _wait_for_answer(url, contestant.title, first, process, folder / "log")
        runs.seconds_to_ready = time.monotonic() - begin
        yield runs
    finally:
        family = runs.family()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        alive = psutil.wait_procs(family, timeout=5)[1]
        for survivor in {*alive, *runs.family()}:  # stock LitServe leaves some on SIGTERM
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        process.wait(5)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_answer(url: str, title: str, posts: Posts | None, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _ask(url, posts, 0)[0] == HTTPStatus.OK:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{title} did not come up:\n{log.read_text(errors='replace')[-2000:]}")


def _ask(url: str, posts: Posts | None, number: int) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    with contextlib.closing(connection):
        if posts:
            connection.request("POST", parts.path, posts.bodies[number], dict(posts.headers))
        else:
            connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
