"""One measurement of a running contestant: what a client saw, the CPU it took, and how quiet the machine was."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.machine import busy_seconds
from benchmarks.serving.load import Posts, Result, closed_loop
from benchmarks.serving.running import Running

QUIET_CORES = 0.1
TRIES = 4


class Measured(NamedTuple):
    """A closed loop; `cpu` are the seconds of all the contestant's processes per answer."""

    result: Result
    cpu: float
    others: float  # cores that were busy with neither the contestant nor its load


def measure(
    runs: Running, url: str, posts: Posts, *, connections: int, seconds: float, distinct: bool = True, tries: int = 1
) -> Measured:
    """Measure; again, up to `tries` times, while others use more than a tenth of a core."""
    for _ in range(tries):
        cpu, busy, begin = runs.cpu_seconds(), busy_seconds(), time.monotonic()
        result = closed_loop(url, posts, connections=connections, seconds=seconds, distinct=distinct)
        elapsed, spent = time.monotonic() - begin, runs.cpu_seconds() - cpu
        others = (busy_seconds() - busy - spent) / elapsed
        measured = Measured(result, spent / (result.rate * seconds) if result.rate else math.nan, others)
        if others <= QUIET_CORES:
            break
    return measured


def median(measured: Sequence[Measured]) -> Measured:
    cpu, others = (statistics.median(getattr(m, name) for m in measured) for name in ("cpu", "others"))
    return Measured(median_result([m.result for m in measured]), cpu, others)


def median_result(results: Sequence[Result]) -> Result:
    """Return the medians of each figure, and all errors."""
    rate, p50, p99 = (statistics.median(getattr(r, name) for r in results) for name in ("rate", "p50", "p99"))
    return Result(rate, p50, p99, sum(r.errors for r in results))
