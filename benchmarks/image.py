"""Build the images of service and training and run them, without a container engine: content, service, a training run.

    sudo python -m benchmarks.image [--work FOLDER] [-- --volume /etc/pip.conf:/etc/pip.conf:ro ...]

Slow: it makes a Debian with debootstrap, which stands in for the base in the Dockerfile's FROM, and installs torch with
CUDA. Needs root, buildah, debootstrap, and 40 GB in FOLDER, which is a temporary one and removed unless it is named. A
named one keeps the base and the layers for the next time, and grows by what has changed. What follows `--` is handed to
`buildah build`: the files that tell pip where to look, for instance. It ends with 1 at the first thing that is not as
it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image, ImageDraw

from benchmarks.buildah import Builder
from benchmarks.container import Unpacked
from benchmarks.machine import describe
from tests.namespaces import NEEDED, first_process
from tests.pictures import encode
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
START_SECONDS = 300
GRACE_SECONDS = 40  # terminationGracePeriodSeconds in k8s/base
PROBE = """
import importlib.util, json, os, shutil, sys
walk = os.walk("/")
root, below, _ = next(walk)
below[:] = set(below) - {"proc", "sys"}
print(json.dumps({
    "user": f"{os.getuid()}:{os.getgid()}",
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "nvcc", "make") if shutil.which(name)],
    "writable": sorted(folder for folder, _, _ in walk if os.access(folder, os.W_OK)),
    "working": sorted(os.listdir()),
    "importable": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
}))
"""


def require(fact: str, *, holds: bool, given: object) -> None:
    """Say what was found; end here if it is not as it must be."""
    if not holds:
        sys.exit(f"{fact} is required. Given: {given}")
    print(f"- {fact}: {given}")


def size_bytes(folder: Path) -> int:
    """What `folder` holds, whatever has a second name counted once."""
    return int(subprocess.run(["du", "-sxB1", folder], check=True, capture_output=True, text=True).stdout.split()[0])


def seven() -> bytes:
    """A seven in two strokes, as PNG."""
    picture = Image.new("L", (28, 28))
    ImageDraw.Draw(picture).line([(7, 7), (20, 7), (12, 22)], fill=255, width=3)
    return encode(picture)


def check_content(image: Unpacked, *, half: str, volumes: list[str], working: list[str], packages: set[str]) -> None:
    """Hold what is in an image to what is meant to be."""
    for key in ("User", "WorkingDir", "Entrypoint", "StopSignal", "Healthcheck", "Volumes", "Labels", "Env"):
        print(f"- {key}: {json.dumps(image.config.get(key))}")
    halves = {"service", "training"} if half == "training" else {"service"}
    asked = {*packages, *halves, "training", "tests", "benchmarks", "torch"}
    found = json.loads(image.says("python", "-c", PROBE, *sorted(asked)))
    require("the user is 10001", holds=found["user"] == image.config["User"] == "10001:10001", given=found["user"])
    require("the command is the project's", holds=image.config["Entrypoint"] == ["python", "-m", half], given=half)
    require("no compiler", holds=not found["compilers"], given=found["compilers"] or "none")
    expected = sorted({*packages, *halves, "torch"})
    require("what can be imported", holds=found["importable"] == expected, given=found["importable"])
    require("the working folder", holds=found["working"] == working, given=found["working"])
    writable = sorted(["/tmp", "/dev/shm", *volumes])
    require("what can be written", holds=found["writable"] == writable, given=found["writable"])


def until_ready(url: str, started: subprocess.Popen[str]) -> float:
    """Seconds until it takes requests."""
    begin = time.monotonic()
    while time.monotonic() < begin + START_SECONDS:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return time.monotonic() - begin
        if started.poll() is not None:
            sys.exit(f"the service must start. Given: {started.stdout and started.stdout.read()}")
        time.sleep(0.1)
    sys.exit(f"the service must be ready within {START_SECONDS} s. Given: it is not.")


def check_service(image: Unpacked) -> None:
    """Start it, ask it, and end it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {
        "SERVICE_PORT": str(port),
        "SERVICE_GRPC_PORT": str(free_port()),
        "SERVICE_URL": url,
        "SERVICE_DRAIN_SECONDS": "1",
    }
    with image.running(*image.config["Entrypoint"], **own) as started:
        print(f"- ready after {until_ready(url, started):.1f} s")
        first = first_process(started)
        everyone = [first, *first.children(recursive=True)]
        uids = {process.uids().real for process in everyone}
        require("the first process", holds=uids == {10001}, given=" ".join(first.cmdline()))
        kind, *health = image.config["Healthcheck"]["Test"]
        require("the health check passes", holds=kind == "CMD", given=image.says(*health, **own))
        require("a drawn 7 is a 7", holds=predicted(url) == "7", given=predicted(url))

        begin = time.monotonic()
        first.send_signal(signal.Signals[image.config["StopSignal"]])
        while (status := httpx.get(f"{url}/readyz").status_code) == 200:
            time.sleep(0.01)
        require(f"after {image.config['StopSignal']} it is not ready", holds=status == 503, given=status)
        require("and answers while it drains", holds=predicted(url) == "7", given="a 7 again")
        log, _ = started.communicate(timeout=GRACE_SECONDS)
        left = [process.pid for process in everyone if process.is_running()]
        took = f"{started.returncode} after {time.monotonic() - begin:.1f} s"
        require("it ends with 0 and leaves no process", holds=not (started.returncode or left), given=took)
        compiled = re.search(r"compiled modules: (\d+)", log)
        require("it is compiled", holds=bool(compiled and int(compiled[1])), given=compiled and compiled[0])
        require("its log tells of no error", holds="Traceback" not in log, given=log.splitlines()[-1])


def predicted(url: str) -> str:
    """What the service takes a drawn seven for."""
    answer = httpx.post(f"{url}/predict", content=seven(), headers={"content-type": "image/png"})
    return str(answer.raise_for_status().json()["predictions"][0]["label"])


def check_training(image: Unpacked) -> None:
    """Train, publish and promote on data that needs no network."""
    run = ["run", "neural_net", "--data", "digits", "--epochs", "1", "--publish", "--promote-if-better"]
    said = image.says(*image.config["Entrypoint"], *run)
    published = [line for line in said.splitlines() if line.startswith(("published", "promoted", "  path"))]
    require("a run publishes to the volume", holds=len(published) == 3, given=", ".join(map(str.strip, published)))


def check(builder: Builder, base: str, options: list[str]) -> None:
    print(f"{describe()}\n")
    if not builder.has(base):
        builder.make_debian(base)
    with builder.mounted(base) as root:
        print(f"The base: {size_bytes(root) / 1e9:.2f} GB")
    for half in ("service", "training"):
        begin = time.monotonic()
        builder.build(half, f"argmax-{half}", options)
        print(f"\nargmax-{half}, built in {time.monotonic() - begin:.0f} s\n")
        with builder.mounted(f"argmax-{half}") as root:
            image = Unpacked(root, builder.config(f"argmax-{half}"))
            packages = size_bytes(root / "opt/venv")
            print(f"- {size_bytes(root) / 1e9:.2f} GB, of which the packages are {packages / 1e9:.2f} GB")
            if half == "service":
                check_content(image, half=half, volumes=[], working=["models"], packages={"s3fs", "grpc", "pynvml"})
                check_service(image)
            else:
                check_content(image, half=half, volumes=["/data"], working=[], packages={"s3fs", "sklearn"})
                check_training(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder that keeps the base and the layers")
    parser.add_argument("options", nargs="*", help="of `buildah build`")
    arguments = parser.parse_args()
    missing = [name for name in ("buildah", "debootstrap", *NEEDED) if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        sys.exit(f"root, buildah and debootstrap are required. Given: uid {os.geteuid()}, without {missing}.")
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)

    sys.stdout.reconfigure(line_buffering=True)  # in the order of what the builder says
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="argmax-image-")))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays mounted
        check(stack.enter_context(Builder(work.resolve(), ROOT)), base, arguments.options)


if __name__ == "__main__":
    main()
