"""A contestant's processes: started, waited for, measured and ended. Knows nothing of who competes."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import orjson
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
        self.seconds_to_ready = 0.0  # since it was started
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
    """Start a contestant, wait until it is ready, and end every process of it afterwards.

    It is ready when it says so, if it can, and has answered the first of these requests, if there are any.

    Raises:
        RuntimeError: it does not answer.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    runs = Running(port, model.parent.parent.name, uuid.uuid4().hex)
    command = [part.format(port=port, registry=registry, model=model) for part in contestant.command]
    places = {"PORT": str(port), "MODEL": str(model), "MODEL_NAME": runs._model, "BENCH_DIR": str(folder)}
    variables = {**os.environ, **places, **contestant.variables, _MARK: runs._run}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no process outlives this one
    begin = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=contestant.folder, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait = partial(_wait, contestant.title, process, folder / "log")
        if contestant.says_ready:
            wait(partial(_says_ready, port))
        if first:
            url = runs.url(contestant.requests[0])
            wait(lambda: _ask(url, first, 0)[0] == HTTPStatus.OK)
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


def _wait(title: str, process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if is_ready():
                return
        time.sleep(0.05)
    raise RuntimeError(f"{title} did not come up:\n{log.read_text(errors='replace')[-2000:]}")


def _says_ready(port: int) -> bool:
    """Return whether Argmax has every model ready: while some are being loaded, that takes CPU from the others."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == HTTPStatus.OK and all(orjson.loads(answer.read())["models"].values())


def _ask(url: str, posts: Posts, number: int) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", parts.path, posts.bodies[number], dict(posts.headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
