"""The share of predictions that were right, of those whose truth was told, with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from service.telemetry.metrics import families
from service.telemetry.metrics.families import Gauge
from service.telemetry.metrics.totals import Totals

OUTCOMES = ("right", "wrong", "abstained")

CONFIDENCE = 0.95
_DEVIATIONS = 1.959964  # of a normal distribution, between which 95 % of it lies


class Accuracy(NamedTuple):
    """The outcomes of one version, and its accuracy; that is None before there is any."""

    model: str
    version: str
    right: int
    wrong: int
    abstained: int

    @property
    def n(self) -> int:
        """How many predictions named a class."""
        return self.right + self.wrong

    @property
    def share(self) -> float | None:
        """The share of these that was right."""
        return self.right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that holds the accuracy with 95 % confidence."""
        return wilson(self.right, self.n) if self.n else None


def accuracies(totals: Totals) -> Iterator[Accuracy]:
    """Yield the accuracy of each version that has feedback, by name and number."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for (model, version, outcome), (number,) in totals.series[families.FEEDBACK.name].items():
        counts.setdefault((model, version), {})[outcome] = round(number)
    for (model, version), found in sorted(counts.items(), key=lambda item: (item[0][0], int(item[0][1]))):
        if any(found.values()):
            yield Accuracy(model, version, *(found.get(outcome, 0) for outcome in OUTCOMES))


def gauges(totals: Totals) -> Iterator[Gauge]:
    """Yield what /metrics says of each version that has feedback."""
    for found in accuracies(totals):
        if found.share is not None and found.interval is not None:
            lower, upper = found.interval
            for bound, value in (("lower", lower), ("estimate", found.share), ("upper", upper)):
                yield families.LIVE_ACCURACY, (found.model, found.version, bound), value


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, "Probable inference", 1927), at 95 % confidence.

    Unlike the share plus or minus two deviations it stays between 0 and 1, and holds for few examples too.
    """
    z2 = _DEVIATIONS**2
    middle = (right + z2 / 2) / (n + z2)
    half = _DEVIATIONS / (n + z2) * math.sqrt(right * (n - right) / n + z2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
