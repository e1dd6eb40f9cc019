"""What users of the service notice, of this checkout and of another, in one run: start, memory, idle CPU and speed.

    python -m benchmarks.acceptance --against ../older      its own code, in its .venv if it has one
    python -m benchmarks.acceptance --quick                 this checkout alone, one round, short measurements

Every round starts each checkout in turn with its own shipped models, so that a noisy minute harms both alike; medians.
"Ready" is when /readyz names every model as ready. Memory is that of all processes (PSS), before the first request and
after the last. Needs wrk (Debian: apt-get install wrk) and MNIST in MNIST_ROOT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.pictures import Pixels, mnist
from benchmarks.serving.contestants import CONTESTANTS, Contestant
from benchmarks.serving.load import closed_loop, open_loop
from benchmarks.serving.measuring import TRIES, measure
from benchmarks.serving.requests import PNG, tensor_of_one
from benchmarks.serving.running import Running, running
from service.contract.registry import ARTIFACT, Registry
from tests.ports import free_port

AT = 64
PEAK_AT = 256
SHARE = 0.7  # of the peak, in the open loop
WARM_SECONDS = 2
SETTLING_SECONDS = 2  # the first moments after the start are no rest
IMAGES = 256
HERE = Path(__file__).parent.parent

Figures = dict[str, float]


def argmax_at(checkout: Path) -> Contestant:
    """Return the service of a checkout: what is in the folder where Python starts comes first."""
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python) if python.exists() else sys.executable, *CONTESTANTS["argmax"].command[1:]]
    return Contestant(f"Argmax in {checkout}", command, folder=checkout, says_ready=True)


def rest(runs: Running, seconds: float) -> Figures:
    """Measure what a service takes that nobody asks."""
    time.sleep(SETTLING_SECONDS)
    before, begin = runs.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    idle = (runs.cpu_seconds() - before) / (time.monotonic() - begin)
    return {"idle CPU, % of a core": idle * 100, "memory at rest, MiB": runs.pss_bytes() / 2**20}


def speed(runs: Running, pixels: Pixels, seconds: float, tries: int) -> Figures:
    """Measure requests of one image, PNGs and tensors, and an open loop of PNGs."""
    figures: Figures = {}
    others: list[float] = []
    for request in (PNG, tensor_of_one("class_ids")):
        url, posts = runs.url(request), request.posts(pixels)
        closed_loop(url, posts, connections=AT, seconds=WARM_SECONDS)
        one = measure(runs, url, posts, connections=1, seconds=seconds, tries=tries)
        many = measure(runs, url, posts, connections=AT, seconds=seconds, tries=tries)
        others += [one.others, many.others]
        figures |= {
            f"{request.title}, 1 connection, p50 ms": one.result.p50 * 1e3,
            f"{request.title}, {AT} connections, requests/s": many.result.rate,
            f"{request.title}, {AT} connections, p99 ms": many.result.p99 * 1e3,
            f"{request.title}, {AT} connections, CPU µs": many.cpu * 1e6,
            f"{request.title}, errors": one.result.errors + many.result.errors,
        }
    url, posts = runs.url(PNG), PNG.posts(pixels)
    at_most = measure(runs, url, posts, connections=PEAK_AT, seconds=seconds, tries=tries).result.rate
    peak = max(at_most, figures[f"{PNG.title}, {AT} connections, requests/s"])
    opened = open_loop(url, posts, rate=SHARE * peak, seconds=seconds)
    where = f"open loop at {SHARE:.0%} of the peak"
    figures |= {f"{where}, requests/s": opened.result.rate, f"{where}, p99 ms": opened.result.p99 * 1e3}
    figures |= {f"{where}, sent late, p99 ms": opened.late_p99 * 1e3, f"{where}, errors": opened.result.errors}
    return figures | {"busy with other things, cores, at most": max(others)}


def figures_of(checkout: Path, options: argparse.Namespace) -> Figures:
    """Start a checkout's service once and measure all of it."""
    registry = checkout / "models"
    version = Registry(str(registry)).resolve(options.model)
    artifact = registry / options.model / str(version) / ARTIFACT
    pixels = mnist(options.mnist, IMAGES)
    with running(argmax_at(checkout), registry, artifact, first=None, port=free_port()) as runs:
        figures = {"ready after, s": runs.seconds_to_ready} | rest(runs, options.rest_seconds)
        figures |= speed(runs, pixels, options.seconds, 1 if options.quick else TRIES)
        return figures | {"memory after the load, MiB": runs.pss_bytes() / 2**20}


def table(measured: dict[str, list[Figures]]) -> list[str]:
    """Return the medians of each checkout, and for two of them the ratio of the last to the first."""
    columns = list(measured)
    names = measured[columns[-1]][0]
    compares = len(columns) > 1
    heads = [*columns, *(["ratio"] if compares else [])]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name in names:
        medians = [statistics.median(figures[name] for figures in measured[column]) for column in columns]
        cells = [f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}" for value in medians]
        if compares:
            cells.append(f"{medians[-1] / medians[0]:.2f}" if medians[0] else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, with models/")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of speed")
    parser.add_argument("--rest-seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="rounds over both checkouts")
    parser.add_argument("--quick", action="store_true", help="one round; 2 s of load and 5 s of rest")
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--mnist", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds, options.rest_seconds = 1, 2, 5
    options.mnist = options.mnist.resolve()
    os.environ["SERVICE_DEFAULT_MODEL"] = options.model
    checkouts = {"this checkout": HERE}
    if options.against:
        checkouts = {"before": options.against.resolve(), **checkouts}
    measured: dict[str, list[Figures]] = {name: [] for name in checkouts}
    for number in range(options.repeats):
        order = list(checkouts.items())
        for name, checkout in order if number % 2 == 0 else reversed(order):
            measured[name].append(figures_of(checkout, options))
            print(f"round {number + 1}, {name}: {measured[name][-1]}", file=sys.stderr, flush=True)
    loads = "1-minute load average at the end " + f"{os.getloadavg()[0]:.1f}"
    print(f"{describe()}; {options.repeats} rounds, medians; {loads}\n")
    print("\n".join(table(measured)))


if __name__ == "__main__":
    main()
