"""Measure what metrics cost: CPU time of a request, and requests a second, with all recording and with none of it.

    python -m benchmarks.metrics
    python -m benchmarks.metrics --rounds 10 --seconds 5

Each round restarts both services and drives them in turn, with, without, without, with, so that neither a drift of
the machine nor the luck of one process favours either. The cost is the median over rounds of the ratio within a round.
Needs wrk (Debian: apt-get install wrk) and two cores or more. CPU time is that of all processes of a service, so it
means something on a busy machine too; requests a second do only on a quiet one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil
from PIL import Image, ImageDraw

from benchmarks.serving.contestants import Contestant
from benchmarks.serving.load import Posts, closed_loop
from benchmarks.serving.requests import PNG
from benchmarks.serving.running import Running, running
from service.settings import Settings
from service.telemetry.observer import Observer

RECORDING = {True: "with metrics", False: "without"}


class Silent(Observer):
    """A observer that records nothing."""

    def arrived(self) -> None:
        pass

    def answered(self, *_: object) -> None:
        pass

    def block_answered(self, *_: object) -> None:
        pass

    def flush(self, *_: object) -> None:
        pass


class Cost(NamedTuple):
    """CPU seconds of one request, and requests a second."""

    cpu_seconds: float
    rate: float


def measure(service: Running, posts: Posts, arguments: argparse.Namespace) -> Cost:
    before = service.cpu_seconds()
    result = closed_loop(service.url(PNG), posts, connections=arguments.connections, seconds=arguments.seconds)
    if result.errors:
        raise RuntimeError(f"every request must be answered. Given: {result.errors} were not")
    return Cost((service.cpu_seconds() - before) / (result.rate * arguments.seconds), result.rate)


def play_round(image: bytes, arguments: argparse.Namespace) -> dict[bool, list[Cost]]:
    """Restart both services and return the costs of each."""
    costs: dict[bool, list[Cost]] = {True: [], False: []}
    posts = Posts([image], {"Content-Type": "image/png"})
    with service_of(True, posts, arguments) as loud, service_of(False, posts, arguments) as silent:
        services = {True: loud, False: silent}
        for service in services.values():
            closed_loop(service.url(PNG), posts, connections=arguments.connections, seconds=2)  # warm
        for recording in (True, False, False, True):
            costs[recording].append(measure(services[recording], posts, arguments))
    return costs


def service_of(
    recording: bool, posts: Posts, arguments: argparse.Namespace
) -> contextlib.AbstractContextManager[Running]:
    """Run a service with or without metrics until the block is left."""
    port = arguments.port + (not recording)
    command = [sys.executable, "-m", "benchmarks.metrics", "serve", f"--port={port}", f"--model={arguments.model}"]
    silent = [] if recording else ["--silent"]
    contestant = Contestant(RECORDING[recording], [*command, "--registry={registry}", *silent])
    return running(contestant, arguments.registry.resolve(), Path(), first=posts, port=port)


def serve(arguments: argparse.Namespace) -> int:
    """One of the services that are measured."""
    from service.commands.serve import serve
    from service.processes import server

    if arguments.silent:
        server.Observer = Silent  # type: ignore[misc]
    settings = Settings(
        registry=str(arguments.registry), port=arguments.port, default_model=arguments.model, http_processes=1
    )
    return serve(settings)


def report(costs: dict[bool, list[Cost]], ratios: list[Cost]) -> None:
    for recording, found in costs.items():
        cpu, rate = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"{RECORDING[recording]:<13} {1e6 * cpu:7.1f} us of CPU a request   {rate:9,.0f} requests/s")
    cpu, rate = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"cost          {100 * (cpu - 1):+7.1f} % of CPU time       {100 * (1 - rate):+9.1f} % of throughput")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["measure", "serve"], default="measure")
    parser.add_argument("--silent", action="store_true", help="with serve: record nothing")
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="neural_net", help="a model of images")
    parser.add_argument("--port", type=int, default=18_400, help="this and the next one are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--image", type=Path, help="a PNG; otherwise one of 28x28 that is drawn")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        return serve(arguments)

    with tempfile.TemporaryDirectory() as folder:  # with the one model, so that nothing else is loaded and warmed up
        shutil.copytree(arguments.registry / arguments.model, Path(folder) / arguments.model)
        arguments.registry = Path(folder)
        measure_all(arguments)
    return 0


def measure_all(arguments: argparse.Namespace) -> None:
    image = arguments.image.read_bytes() if arguments.image else drawn_image()
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {psutil.cpu_count()} cores, {arguments.connections} connections, {arguments.rounds} rounds")
    ratios: list[Cost] = []
    everything: dict[bool, list[Cost]] = {True: [], False: []}
    for number in range(arguments.rounds):
        costs = play_round(image, arguments)
        mean = {recording: Cost(*map(statistics.fmean, zip(*found, strict=True))) for recording, found in costs.items()}
        ratios.append(Cost(*(a / b for a, b in zip(mean[True], mean[False], strict=True))))
        for recording, found in costs.items():
            everything[recording] += found
        cpu, rate = ratios[-1]
        print(f"round {number + 1}: CPU time x {cpu:.3f}, requests/s x {rate:.3f}", file=sys.stderr, flush=True)
    report(everything, ratios)


def drawn_image() -> bytes:
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).line([(6, 6), (20, 6), (12, 22)], fill=255, width=3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
