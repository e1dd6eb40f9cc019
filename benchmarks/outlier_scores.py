"""What the outlier score costs inside a model: a batch with it and without it, in turn, on one thread of the CPU.

    python -m benchmarks.outlier_scores [--registry models] [--sizes 1 16 64]

"Without" is the same artifact, whose graph gives the logits alone: what only the score needed is removed from it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.serving.logits_only import without_score
from service.contract.manifest import ImageInput, ModelManifest
from service.contract.registry import Registry
from service.model import torchscript

ROUNDS = 15
ROUND_SECONDS = 0.05
WARM_RUNS = 20

Compute = Callable[[Tensor], Any]


def seconds_of(compute: Compute, inputs: Tensor) -> float:
    """Measure the seconds of a run, over runs for ROUND_SECONDS."""
    begin, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < ROUND_SECONDS:
        compute(inputs)
        runs += 1
    return taken / runs


def compare(manifest: ModelManifest, artifact: bytes, size: int) -> tuple[float, float]:
    """Return the median seconds of a batch without and with its scores."""
    with torchscript.without_deprecations():
        module = torch.jit.load(io.BytesIO(artifact))
    plain = without_score(module)
    inputs = torch.randint(0, 256, (size, *manifest.input.shape), dtype=torch.uint8)
    for compute in (plain, module):
        for _ in range(WARM_RUNS):
            compute(inputs)
    if not torch.equal(plain(inputs), module(inputs)[0]):
        raise SystemExit("both graphs must give the same logits. Given: others")
    pairs = [(seconds_of(plain, inputs), seconds_of(module, inputs)) for _ in range(ROUNDS)]
    without, with_score = zip(*pairs, strict=True)
    return statistics.median(without), statistics.median(with_score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    registry = Registry(str(options.registry))
    torch.set_num_threads(1)
    print(f"{describe()}; medians of {ROUNDS} pairs of {ROUND_SECONDS * 1e3:g} ms\n")
    print("| model | batch | without, µs | with its score, µs | more |\n|---|---:|---:|---:|---:|")
    for name in registry.models():
        manifest = registry.manifest(name, registry.resolve(name))
        if manifest.outliers is None or not isinstance(manifest.input, ImageInput):
            continue
        artifact = registry.artifact(manifest)
        with torch.inference_mode():
            for size in options.sizes:
                without, with_score = compare(manifest, artifact, size)
                cells = f"{without * 1e6:,.0f} | {with_score * 1e6:,.0f} | {with_score / without - 1:+.1%}"
                print(f"| {manifest.name}@{manifest.version} | {size} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
