"""Measure what the first batch of each size costs after the warm-up, against the median at that size.

    python -m benchmarks.first_requests
    python -m benchmarks.first_requests --model xigua --warm 0

Each model is loaded, in its fastest form, and warmed up as a worker does, in a process of its own for each repetition;
then every size up to the largest runs for the first time, and a few times more. A ratio beyond 3 is a latency cliff.
`--warm 0` leaves the warm-up out, and `--warm all` runs every size in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from typing import NamedTuple

import torch

from service.contract.registry import Registry
from service.model import autotune, torchscript
from service.model.model import warm_up_sizes
from service.settings import usable_cores

_LATER_RUNS = 5
_CLIFF = 3.0


class Loaded(NamedTuple):
    """What a process measured; seconds."""

    warm_up: float
    first: list[float]
    median: list[float]


def load_and_run(registry: str, name: str, device: str, largest: int, warm: str) -> Loaded:
    """In a fresh process: the warm-up, then each size for the first time and a few times more."""
    torch.set_num_threads(1)
    torchscript.start()
    cores = usable_cores()
    source = Registry(registry)
    manifest = source.manifest(name, source.resolve(name))
    model = autotune.fastest(manifest, source.artifact(manifest), torch.device(device), cores=cores)
    autotune.choose_path(model, largest)
    started = time.perf_counter()
    every = list(range(1, largest + 1))
    for size in {"0": [], "service": warm_up_sizes(largest), "all": every}[warm]:
        model.run(model.batch(bytearray(size * model.input_bytes)))
    warm_up = time.perf_counter() - started
    first, median = [], []
    for size in every:
        times = []
        for _ in range(1 + _LATER_RUNS):
            begin = time.perf_counter()
            model.run(model.batch(bytearray(size * model.input_bytes)))
            times.append(time.perf_counter() - begin)
        first.append(times[0])
        median.append(statistics.median(times[1:]))
    return Loaded(warm_up, first, median)


def main() -> int:
    """Print a line for each model; gives 0 if no size has a cliff."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", default="models", help="folder or URL")
    parser.add_argument("--model", help="this one alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--largest", type=int, default=128, help="batch size")
    parser.add_argument("--repeat", type=int, default=3, help="processes; a size counts with the least of their ratios")
    parser.add_argument("--warm", choices=("0", "service", "all"), default="service")
    options = parser.parse_args()
    cliffs = 0
    for name in [options.model] if options.model else Registry(options.registry).models():
        arguments = (options.registry, name, options.device, options.largest, options.warm)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            runs = pool.starmap(load_and_run, [arguments] * options.repeat, chunksize=1)
        # The least: what the code costs comes back each time, and what else the machine did does not.
        ratios = [min(run.first[size] / run.median[size] for run in runs) for size in range(options.largest)]
        worst = max(range(options.largest), key=lambda size: ratios[size])
        beyond = sum(ratio > _CLIFF for ratio in ratios)
        cliffs += beyond
        print(
            f"{name:<12} warm-up {statistics.median(run.warm_up for run in runs):6.3f} s   first / median: "
            f"typical {statistics.median(ratios):4.2f}, worst {ratios[worst]:5.2f} at size {worst + 1:<4} "
            f"sizes beyond {_CLIFF:g}: {beyond}"
        )
    return 1 if cliffs else 0


if __name__ == "__main__":
    sys.exit(main())
