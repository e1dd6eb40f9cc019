"""Latency of a classifier for batches of several sizes, on the device where it runs."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

BATCH_SIZES = (1, 8, 64, 256)
SECONDS = 0.3
"""Spent on each batch size, after the first calls, in which TorchScript compiles."""


def latencies(classifier: nn.Module, inputs: Tensor) -> dict[int, float]:
    """Measure the median milliseconds of one call, by batch size; inputs are repeated where there are too few."""
    measured = {}
    for size in BATCH_SIZES:
        batch = inputs[torch.arange(size, device=inputs.device) % len(inputs)]
        with torch.no_grad():
            for _ in range(3):
                _call(classifier, batch)
            until = time.perf_counter() + SECONDS
            calls = [_call(classifier, batch)]
            while time.perf_counter() < until:
                calls.append(_call(classifier, batch))
        measured[size] = 1000 * statistics.median(calls)
    return measured


def _call(classifier: nn.Module, batch: Tensor) -> float:
    started = time.perf_counter()
    classifier(batch)
    return time.perf_counter() - started
