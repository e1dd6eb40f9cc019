"""The totals of one process, or of several together: numbers by family and labels, to be added and written."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from service.telemetry.metrics.families import FAMILIES, Family, Group, Kind, Labels

Numbers = list[float]


class Totals:
    """The values of every series: one number, or for a histogram those of its buckets, of +Inf, and the sum."""

    def __init__(self) -> None:
        self.series: defaultdict[str, dict[Labels, Numbers]] = defaultdict(dict)

    def numbers(self, family: Family, labels: Labels) -> Numbers:
        """Return the numbers of a series, 0 if it is new."""
        of_family = self.series[family.name]
        found = of_family.get(labels)
        if found is None:
            found = of_family[labels] = [0.0] * family.width
        return found

    def add(self, family: Family, labels: Labels, amount: float = 1.0) -> None:
        self.numbers(family, labels)[0] += amount

    def observe(
        self, family: Family, labels: Labels, values: npt.ArrayLike, weights: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Put values into a histogram's buckets, each counted once or as much as it weighs."""
        array = np.asarray(values, np.float64)
        places = _bounds(family).searchsorted(array)
        counts = np.bincount(places, weights, minlength=len(family.buckets) + 1)
        total = array.sum() if weights is None else array @ weights
        numbers = self.numbers(family, labels)
        numbers[:] = map(operator.add, numbers, [*counts.tolist(), float(total)])

    def merge(self, other: Totals) -> None:
        """Add what `other` counted; gauges are made one as their family says."""
        for name, series in other.series.items():
            combine = _COMBINE[FAMILIES[name].kind]
            own = self.series[name]
            for labels, numbers in series.items():
                present = own.get(labels)
                own[labels] = list(map(combine, present, numbers)) if present else numbers

    def without_gauges(self) -> Totals:
        """Return the counters and histograms, which outlive their process."""
        kept = Totals()
        for name, series in self.series.items():
            if FAMILIES[name].kind in (Kind.COUNTER, Kind.HISTOGRAM):
                kept.series[name] = series
        return kept

    def drop(self, is_void: Callable[[Group], bool]) -> None:
        """Forget the series of some models and versions."""
        for name, series in self.series.items():
            group_of = FAMILIES[name].group_of
            for labels in [labels for labels in series if is_void(group_of(labels))]:
                del series[labels]

    def dump(self) -> list[Any]:
        """Return the totals as JSON values."""
        return [[name, list(series), list(series.values())] for name, series in self.series.items()]

    @classmethod
    def load(cls, dumped: Iterable[tuple[str, Sequence[Sequence[str]], Sequence[Numbers]]]) -> Totals:
        totals = cls()
        for name, labels, numbers in dumped:
            totals.series[name] = dict(zip(map(tuple, labels), numbers, strict=True))
        return totals


@lru_cache(len(FAMILIES))
def _bounds(family: Family) -> npt.NDArray[np.float64]:
    return np.array(family.buckets)


_COMBINE: dict[Kind, Callable[[float, float], float]] = {
    Kind.COUNTER: operator.add,
    Kind.HISTOGRAM: operator.add,
    Kind.SUM: operator.add,
    Kind.MAX: max,
    Kind.AGE: min,
    Kind.SINCE: max,
}


class Snapshot:
    """A process's totals for others to read, and when it last mentioned each model and version."""

    def __init__(self, totals: Totals, seen: dict[Group, float], absorbed: Iterable[str] = ()) -> None:
        self.totals = totals
        self.seen = seen
        self.absorbed = list(absorbed)
        """Names of the snapshots whose numbers are in this one."""

    def to_bytes(self) -> bytes:
        seen = [[*group, time] for group, time in self.seen.items()]
        return orjson.dumps([self.totals.dump(), seen, self.absorbed])

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        totals, seen, absorbed = orjson.loads(data)
        return cls(Totals.load(totals), {(model, version): time for model, version, time in seen}, absorbed)

    def merge(self, other: Snapshot) -> None:
        self.totals.merge(other.totals)
        merge_seen(self.seen, other.seen)


def merge_seen(own: dict[Group, float], other: dict[Group, float]) -> None:
    for group, time in other.items():
        own[group] = max(own.get(group, time), time)
