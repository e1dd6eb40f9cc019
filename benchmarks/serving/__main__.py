"""Start each contestant in turn on loopback, drive it, and print a table of medians and ratios.

    python -m benchmarks.serving                      all of them
    python -m benchmarks.serving argmax ceiling       only these

Needs wrk (Debian: apt-get install wrk) and MNIST in MNIST_ROOT. Server and client share the machine's cores, so only
the ratios within one table mean anything.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.serving.contestants import CONTESTANTS, body_of, running
from benchmarks.serving.load import Result, closed_loop, open_loop
from service.registry import ARTIFACT, Registry

IMAGES = 256


def mnist_pngs(root: Path) -> list[bytes]:
    """The first MNIST test images, as PNG."""
    raw = (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:IMAGES]
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def median(results: list[Result]) -> Result:
    return Result(
        statistics.median(r.rate for r in results),
        statistics.median(r.p50 for r in results),
        statistics.median(r.p99 for r in results),
        sum(r.errors for r in results),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--mnist", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    parser.add_argument("--open-loop", type=float, default=0.7, help="share of the own peak; 0 leaves it out")
    arguments = parser.parse_args()

    os.environ["SERVICE_DEFAULT_MODEL"] = arguments.model
    version = Registry(arguments.registry).resolve(arguments.model)
    model = (arguments.registry / arguments.model / str(version) / ARTIFACT).resolve()
    images = mnist_pngs(arguments.mnist)
    closed: dict[tuple[str, int], list[Result]] = {}
    opened: dict[str, list[Result]] = {}
    # Round after round over all contestants, so that a noisy minute harms all of them alike.
    for _ in range(arguments.repeats):
        for port, name in enumerate(arguments.contestants, 18_300):
            contestant = CONTESTANTS[name]
            bodies = [body_of(contestant, image)[0] for image in images]
            content_type = body_of(contestant, b"")[1]
            with running(contestant, arguments.registry.resolve(), model, image=images[0], port=port) as url:
                closed_loop(url, bodies, content_type, connections=64, seconds=2)  # warm
                for connections in arguments.connections:
                    result = closed_loop(url, bodies, content_type, connections=connections, seconds=arguments.seconds)
                    closed.setdefault((name, connections), []).append(result)
                if arguments.open_loop and name == "argmax":
                    peak = max(closed[name, c][-1].rate for c in arguments.connections)
                    result = open_loop(
                        url, bodies, content_type, rate=arguments.open_loop * peak, seconds=arguments.seconds
                    )
                    opened.setdefault(name, []).append(result)
    print(
        _hardware(), f"{arguments.model}@{version}, {arguments.repeats} rounds of {arguments.seconds:.0f} s, medians\n"
    )
    _print_closed(arguments.contestants, arguments.connections, {key: median(runs) for key, runs in closed.items()})
    for name, runs in opened.items():
        result = median(runs)
        print(
            f"\nOpen loop, {CONTESTANTS[name].title} at {arguments.open_loop:.0%} of its own peak: {result.rate:,.0f} "
            f"requests/s, p50 {result.p50 * 1e3:.2f} ms, p99 {result.p99 * 1e3:.2f} ms, {result.errors} errors"
        )


def _print_closed(names: list[str], connections: list[int], results: dict[tuple[str, int], Result]) -> None:
    columns = [f"{c} connection{'s' if c > 1 else ''}" for c in connections]
    print("| requests/s (p50, p99 in ms) |", " | ".join(columns), "| Argmax is, at 64 |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for name in names:
        cells = []
        for count in connections:
            result = results[name, count]
            errors = f", {result.errors} errors" if result.errors else ""
            cells.append(f"{result.rate:,.0f} ({result.p50 * 1e3:.2f}, {result.p99 * 1e3:.2f}{errors})")
        ratio = ""
        if ("argmax", 64) in results and (name, 64) in results:
            ratio = f"{results['argmax', 64].rate / results[name, 64].rate:.2f} times"
        print(f"| {CONTESTANTS[name].title} |", " | ".join(cells), f"| {ratio} |")


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Python {platform.python_version()}, torch {torch.__version__};"


if __name__ == "__main__":
    main()
