"""Start each contestant in turn on loopback, drive it, and print tables of medians and ratios, in Markdown.

    python -m benchmarks.serving                      all that are installed (`make bench-peers` installs the peers)
    python -m benchmarks.serving argmax ceiling       only these

Needs wrk (Debian: apt-get install wrk) and MNIST in MNIST_ROOT. Server and client share the machine's cores, so only
the ratios within one table mean anything.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.machine import describe
from benchmarks.pictures import mnist, pngs
from benchmarks.serving import several
from benchmarks.serving.contestants import CONTESTANTS, Running, running
from benchmarks.serving.load import Posts, Result, closed_loop, open_loop
from service.contract.registry import ARTIFACT, Registry
from service.model import torchscript

AT = 64  # connections, where contestants are compared
WARM_SECONDS = 2
FLOOR = "constant"
TITLES = {FLOOR: "uvicorn, a constant: what the generator adds"}


class Closed(NamedTuple):
    """A round of closed loop; `cpu` are the seconds of the contestant's processes for each answer."""

    result: Result
    cpu: float


class Rounds:
    """What was measured, round by round."""

    def __init__(self) -> None:
        self.closed: dict[tuple[str, int], list[Closed]] = {}
        self.opened: dict[tuple[float, str], list[Result]] = {}  # by share of Argmax's peak
        self.several: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}  # contestants that did not come up, and why

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Go on with the others if a contestant fails, and say so; what was measured of it does not count."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            print(f"{CONTESTANTS[name].title} is left out: {error}", file=sys.stderr)
            self.missing[name] = str(error).splitlines()[0]

    def of(self, name: str, connections: int) -> Closed:
        """The medians of a contestant."""
        measured = self.closed[name, connections]
        cpu = statistics.median(closed.cpu for closed in measured)
        return Closed(median([closed.result for closed in measured]), cpu)


def median(results: list[Result]) -> Result:
    return Result(
        statistics.median(r.rate for r in results),
        statistics.median(r.p50 for r in results),
        statistics.median(r.p99 for r in results),
        sum(r.errors for r in results),
    )


def measure(contestant: Running, posts: Posts, connections: int, seconds: float) -> Closed:
    before = contestant.cpu_seconds()
    result = closed_loop(contestant.url, posts, connections=connections, seconds=seconds)
    spent = contestant.cpu_seconds() - before
    return Closed(result, spent / (result.rate * seconds) if result.rate else math.nan)


def main() -> None:
    installed = [name for name, contestant in CONTESTANTS.items() if contestant.is_installed]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestants", nargs="*", default=installed, metavar="|".join(CONTESTANTS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, AT, 256])
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all contestants")
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--mnist", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    parser.add_argument("--open-loop", type=float, nargs="*", default=[0.3, 0.5, 0.7], help="shares of Argmax's peak")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.contestants if name not in installed]:
        parser.error(f"contestants must be of {installed}. Given: {unknown}. `make bench-peers` installs the peers")

    os.environ["SERVICE_DEFAULT_MODEL"] = arguments.model
    version = Registry(str(arguments.registry)).resolve(arguments.model)
    model = (arguments.registry / arguments.model / str(version) / ARTIFACT).resolve()
    pixels = mnist(arguments.mnist)
    images = pngs(pixels)
    class_id = int(torchscript.load(model.read_bytes(), torch.device("cpu"))(several.tensor(pixels[:1])).argmax())
    rounds = Rounds()
    peak = 0.0
    # Round after round over all contestants, so that a noisy minute harms all of them alike.
    for _ in range(arguments.repeats):
        for port, name in enumerate(arguments.contestants, 18_300):
            contestant = CONTESTANTS[name]
            posts = contestant.posts(images)
            if name in rounds.missing:
                continue
            place = arguments.registry.resolve(), model
            expected = None if name == FLOOR else class_id
            with (
                rounds.without(name),
                running(contestant, *place, image=images[0], port=port, class_id=expected) as runs,
            ):
                closed_loop(runs.url, posts, connections=AT, seconds=WARM_SECONDS)
                for connections in arguments.connections:
                    closed = measure(runs, posts, connections, arguments.seconds)
                    rounds.closed.setdefault((name, connections), []).append(closed)
                if name == "argmax":
                    peak = max(rounds.closed[name, count][-1].result.rate for count in arguments.connections)
                    for form, images_per_second in several.drive(runs.url, arguments.model, pixels, arguments.seconds):
                        rounds.several.setdefault(form, []).append(images_per_second)
                if peak and name in ("argmax", FLOOR):
                    for share in arguments.open_loop:
                        opened = open_loop(runs.url, posts, rate=share * peak, seconds=arguments.seconds)
                        rounds.opened.setdefault((share, name), []).append(opened)
    how = f"{arguments.model}@{version}, {arguments.repeats} rounds of {arguments.seconds:g} s, medians."
    print(f"{describe()}; {how}\n")
    print_closed([n for n in arguments.contestants if n not in rounds.missing], arguments.connections, rounds)
    for name, reason in rounds.missing.items():
        print(f"\n{CONTESTANTS[name].title} is left out: {reason}")
    print_opened(rounds)
    print_several(rounds)


def print_closed(names: list[str], connections: list[int], rounds: Rounds) -> None:
    columns = [f"{count} connection{'s' if count > 1 else ''}" for count in connections]
    compares = AT in connections
    if compares:
        columns += [f"Argmax, at {AT}", f"CPU µs, at {AT}"]
    print("| requests/s (p50, p99 in ms) |", " | ".join(columns), "|")
    print("|---|" + "---:|" * len(columns))
    for name in names:
        cells = [_cell(rounds.of(name, count).result) for count in connections]
        if compares:
            result, cpu = rounds.of(name, AT)
            compared = "argmax" in names and result.rate
            ratio = f"{rounds.of('argmax', AT).result.rate / result.rate:.2f} times" if compared else ""
            cells += [ratio, f"{cpu * 1e6:,.0f}"]
        print(f"| {CONTESTANTS[name].title} |", " | ".join(cells), "|")


def _cell(result: Result) -> str:
    errors = f", {result.errors} errors" if result.errors else ""
    return f"{result.rate:,.0f} ({result.p50 * 1e3:.2f}, {result.p99 * 1e3:.2f}{errors})"


def print_opened(rounds: Rounds) -> None:
    if not rounds.opened:
        return
    print("\n| open loop | of Argmax's peak | requests/s | p50 ms | p99 ms | errors |\n|---|---:|---:|---:|---:|---:|")
    for (share, name), results in sorted(rounds.opened.items()):
        rate, p50, p99, errors = median(results)
        title = TITLES.get(name) or CONTESTANTS[name].title
        print(f"| {title} | {share:.0%} | {rate:,.0f} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} | {errors} |")


def print_several(rounds: Rounds) -> None:
    if not rounds.several:
        return
    one = statistics.median(rounds.several[several.ONE])
    print("\n| images in a request to Argmax | images/s | times |\n|---|---:|---:|")
    for form, measured in rounds.several.items():
        rate = statistics.median(measured)
        print(f"| {form} | {rate:,.0f} | {rate / one:.2f} |")


if __name__ == "__main__":
    main()
