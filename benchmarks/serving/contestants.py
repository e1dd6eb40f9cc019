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

import psutil

START_SECONDS = 120


@dataclass(frozen=True)
class Contestant:
    """`command` is formatted with {port}, {registry} and {model}, the path of the artifact."""

    title: str
    command: list[str]
    path: str = "/predict"
    form_field: str = ""  # '' sends the image as it is


def _uvicorn(module: str) -> list[str]:
    options = ["--port", "{port}", "--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--lifespan", "off"]
    return [sys.executable, "-m", "uvicorn", f"benchmarks.serving.{module}:app", *options]


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
}


@contextlib.contextmanager
def running(contestant: Contestant, registry: Path, model: Path, *, image: bytes, port: int) -> Iterator[str]:
    """Start a contestant, wait until it predicts, and end every process of it afterwards; gives its URL."""
    url = f"http://127.0.0.1:{port}{contestant.path}"
    command = [part.format(port=port, registry=registry, model=model) for part in contestant.command]
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    environment = {**os.environ, "PORT": str(port), "MODEL": str(model), "BENCH_DIR": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        _wait_until_it_predicts(url, contestant, image, process, folder / "log")
        yield url
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for survivor in psutil.wait_procs(family, timeout=5)[1]:  # stock LitServe leaves some on SIGTERM
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        shutil.rmtree(folder, ignore_errors=True)


def body_of(contestant: Contestant, image: bytes) -> tuple[bytes, str]:
    """A request's body and content type."""
    if not contestant.form_field:
        return image, "image/png"
    boundary = "benchmark"
    disposition = f'form-data; name="{contestant.form_field}"; filename="image.png"'
    head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: image/png\r\n\r\n"
    return head.encode() + image + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _wait_until_it_predicts(
    url: str, contestant: Contestant, image: bytes, process: subprocess.Popen[bytes], log: Path
) -> None:
    body, content_type = body_of(contestant, image)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        request = urllib.request.Request(url, body, {"content-type": content_type})
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{contestant.title} did not come up:\n{log.read_text()[-2000:]}")
