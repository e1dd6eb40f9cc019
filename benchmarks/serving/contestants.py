"""Who competes: how each is started, and what a request to it looks like. Each gets the same artifact and images."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

from benchmarks.serving.load import Posts

START_SECONDS = 120
PEERS = Path(".peers")
"""Where `make bench-peers` installs the peers, each with an environment of its own."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contestant:
    """`command` is formatted with {port}, {registry} and {model}, the path of the artifact."""

    title: str
    command: list[str]
    path: str = "/predict"
    form_field: str = ""  # '' sends the image as it is
    peer: str = ""  # the environment that it needs; '' is ours

    @property
    def is_installed(self) -> bool:
        return not self.peer or (PEERS / self.peer / "installed").exists()

    def posts(self, images: list[bytes]) -> Posts:
        """The requests that ask for these images, one in each."""
        if not self.form_field:
            return Posts(images, {"Content-Type": "image/png"})
        return Posts(*form([[image] for image in images], self.form_field))


class Running:
    """A contestant that answers at `url`."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self._process = process

    def family(self) -> list[psutil.Process]:
        """Its processes, Ray's daemons among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def cpu_seconds(self) -> float:
        """What its processes have computed so far; the difference of two says what lies between."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def _uvicorn(module: str) -> list[str]:
    options = ["--port", "{port}", "--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--lifespan", "off"]
    return [sys.executable, "-m", "uvicorn", f"benchmarks.serving.{module}:app", *options]


def _peer(name: str) -> list[str]:
    """A script of ours in the peer's environment; it does not see this package, whose modules it must not import."""
    return [str(PEERS.absolute() / name / "bin" / "python"), str(_HERE / "peers" / f"{name}_server.py")]


CONTESTANTS = {
    "argmax": Contestant("Argmax", [sys.executable, "-m", "service", "--registry", "{registry}", "--port", "{port}"]),
    "ceiling": Contestant("in-process ceiling", _uvicorn("ceiling")),
    "constant": Contestant("uvicorn, a constant", _uvicorn("constant")),
    "fastapi": Contestant("FastAPI by hand", _uvicorn("fastapi_by_hand")),
    "litserve": Contestant(
        "LitServe 0.2.19 as documented",
        [sys.executable, "-m", "benchmarks.serving.stock_litserve"],
        form_field="request",
    ),
    "torchserve": Contestant("TorchServe", _peer("torchserve"), path="/predictions/model", peer="torchserve"),
    "bentoml": Contestant("BentoML", _peer("bentoml"), form_field="images", peer="bentoml"),
    "ray": Contestant("Ray Serve", _peer("ray"), peer="ray"),
}


@contextlib.contextmanager
def running(
    contestant: Contestant, registry: Path, model: Path, *, image: bytes, port: int, class_id: int | None = None
) -> Iterator[Running]:
    """Start a contestant, wait until it answers, and end every process of it afterwards.

    Raises:
        RuntimeError: it does not answer, or finds `image` to be of another class than `class_id`.
    """
    url = f"http://127.0.0.1:{port}{contestant.path}"
    command = [part.format(port=port, registry=registry, model=model) for part in contestant.command]
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    environment = {**os.environ, "PORT": str(port), "MODEL": str(model), "BENCH_DIR": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    runs = Running(url, process)
    family: list[psutil.Process] = []
    try:
        answer = _first_answer(url, contestant, image, process, folder / "log")
        if class_id is not None and class_in(answer) != class_id:
            raise RuntimeError(f"{contestant.title} must answer class {class_id}. Given: {answer!r}")
        yield runs
    finally:
        family = runs.family()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for survivor in psutil.wait_procs(family, timeout=5)[1]:  # stock LitServe leaves some on SIGTERM
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        shutil.rmtree(folder, ignore_errors=True)


def class_in(answer: bytes) -> int:
    """The class that an answer tells: {"class_id": ...} alone, in a list, or in the list of predictions of Argmax."""
    document = orjson.loads(answer)
    found = document.get("predictions", document) if isinstance(document, dict) else document
    return int((found[0] if isinstance(found, list) else found)["class_id"])


def form(groups: list[list[bytes]], field: str) -> tuple[list[bytes], dict[str, str]]:
    """A multipart body for each group of images, and the headers that they share."""
    head = f'Content-Disposition: form-data; name="{field}"; filename="image.png"\r\nContent-Type: image/png\r\n\r\n'
    bodies = [
        b"".join(b"--benchmark\r\n" + head.encode() + image + b"\r\n" for image in images) + b"--benchmark--\r\n"
        for images in groups
    ]
    return bodies, {"Content-Type": "multipart/form-data; boundary=benchmark"}


def _first_answer(url: str, contestant: Contestant, image: bytes, process: subprocess.Popen[bytes], log: Path) -> bytes:
    posts = contestant.posts([image])
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        request = urllib.request.Request(url, posts.bodies[0], dict(posts.headers))
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=5) as answer:
            if answer.status == 200:
                return bytes(answer.read())
        time.sleep(0.2)
    raise RuntimeError(f"{contestant.title} did not come up:\n{log.read_text()[-2000:]}")
