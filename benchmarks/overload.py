"""What is answered in time when more is asked than can be: goodput at multiples of the peak.

    python -m benchmarks.overload

The peak is that of a closed loop (wrk, 64 connections). Then requests arrive at random (Poisson) at multiples of it,
each with a deadline of its own; what counts is answered with 200 before it. A model that takes long enough is asked, so
that the model is what is short, and not the client that shares the machine. Exit status 1 if less than 0.9 of what can
be is answered in time, if a request gets no answer or an unexpected one, or one more than a second after its deadline.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import describe
from benchmarks.pictures import noise
from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import Posts, TimedAnswer, arrivals, closed_loop
from benchmarks.serving.requests import PNG
from benchmarks.serving.running import running
from service.contract.manifest import ImageInput
from service.contract.registry import ARTIFACT, Registry
from tests.ports import free_port

CONNECTIONS = 64
WARM_SECONDS = 2
LEAST_SHARE = 0.9
GRACE_SECONDS = 1.0

_EXPECTED = (HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT)


class Outcome(NamedTuple):
    """What became of the requests of one load."""

    good: list[float]  # seconds of those that were answered with 200 before their deadline, sorted
    late: int  # answered, whatever with, more than GRACE_SECONDS after it
    statuses: Counter[int]
    missing: int

    @classmethod
    def of(cls, answers: list[TimedAnswer], missing: int, deadline: float) -> Outcome:
        good = sorted(a.seconds for a in answers if a.status == HTTPStatus.OK and a.seconds <= deadline)
        late = sum(a.seconds > deadline + GRACE_SECONDS for a in answers)
        return cls(good, late, Counter(a.status for a in answers), missing)

    @property
    def unexpected(self) -> int:
        return sum(number for status, number in self.statuses.items() if status not in _EXPECTED)

    def row(self, times: float, possible: float) -> str:
        """A line of the table; `possible` is how many could be answered at the peak."""
        refused, expired = (f"{self.statuses[status]:,}" for status in _EXPECTED[1:])
        p99 = self.good[int(len(self.good) * 0.99)] * 1e3 if self.good else float("nan")
        cells = (f"{times:g}", f"{len(self.good) / possible:.2f}", f"{p99:.0f}", refused, expired)
        return f"| {' | '.join(cells)} | {self.unexpected} | {self.late} | {self.missing} |"

    def fails(self, times: float, possible: float) -> bool:
        too_few = len(self.good) < LEAST_SHARE * min(times, 1) * possible
        return too_few or bool(self.unexpected or self.late or self.missing)


def main() -> int:
    """Print a line for each multiple of the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--times", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="the peak")
    parser.add_argument("--deadline-ms", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    registry = Registry(str(options.registry))
    version = registry.resolve(options.model)
    spec = registry.manifest(options.model, version).input
    if not isinstance(spec, ImageInput):
        parser.error(f"--model must take images. Given: {options.model}, which takes features")
    os.environ["SERVICE_DEFAULT_MODEL"] = options.model
    patient = PNG.posts(noise(spec.shape))
    hurried = Posts(patient.bodies, {**patient.headers, "X-Request-Timeout-Ms": str(options.deadline_ms)})
    place = options.registry.resolve(), (options.registry / options.model / str(version) / ARTIFACT).resolve()
    deadline = options.deadline_ms / 1000
    peaks: list[float] = []
    found: dict[float, list[tuple[list[TimedAnswer], int]]] = {times: [] for times in options.times}
    with running(CONTESTANTS["argmax"], *place, first=patient, port=free_port()) as runs:
        url = runs.url(PNG)
        closed_loop(url, patient, connections=CONNECTIONS, seconds=WARM_SECONDS)
        for _ in range(options.repeats):  # each with a peak of its own: the machine may have others to serve
            peaks.append(closed_loop(url, patient, connections=CONNECTIONS, seconds=options.seconds).rate)
            for times in options.times:
                found[times].append(arrivals(url, hurried, rate=times * peaks[-1], seconds=options.seconds))
    print(f"{describe()}; {options.model}@{version}, {options.repeats} rounds of {options.seconds:g} s, deadline")
    print(f"{options.deadline_ms} ms; the peak is {statistics.median(peaks):,.0f} requests/s\n")
    print("| asked, of the peak | in time, of the peak | their p99 ms | 429 | 504 | others | late | no answer |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    possible = sum(peaks) * options.seconds
    failed = False
    for times, rounds in found.items():
        answers = [answer for answered, _ in rounds for answer in answered]
        outcome = Outcome.of(answers, sum(missing for _, missing in rounds), deadline)
        print(outcome.row(times, possible))
        failed |= outcome.fails(times, possible)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
