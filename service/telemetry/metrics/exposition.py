"""Every process's numbers as Prometheus reads them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from service.telemetry.feedback import accuracy
from service.telemetry.metrics import families, retention
from service.telemetry.metrics.families import FAMILIES, Family, Gauge, Kind
from service.telemetry.metrics.snapshots import Shared
from service.telemetry.metrics.totals import Numbers, Totals

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OF_VERSIONS_ON_OFFER = (families.LOADED_TIME, families.SELF_TEST_AGE, families.LAST_ANSWER)


def expose(folder: Path, gauges: Iterable[Gauge] = ()) -> bytes:
    """Return the exposition of what all processes have left in `folder`, and of `gauges`, which are of this moment."""
    now = time.monotonic()
    everything = Shared(folder).read_all()
    totals = everything.totals
    is_shown = retention.shown(everything.seen, now)
    totals.drop(lambda group: not is_shown(group))
    _leave_to_the_living(totals)
    for family, labels, value in (*gauges, *accuracy.gauges(totals)):
        totals.numbers(family, labels)[0] = value
    return "".join(_lines(totals, now)).encode()


def _leave_to_the_living(totals: Totals) -> None:
    """Drop what workers recorded about versions no longer served: no worker records that it let one go."""
    on_offer = {families.MODEL_INFO.group_of(labels) for labels in totals.series[families.MODEL_INFO.name]}
    for family in _OF_VERSIONS_ON_OFFER:
        series = totals.series[family.name]
        totals.series[family.name] = {labels: n for labels, n in series.items() if family.group_of(labels) in on_offer}


# By hand: prometheus_client takes three times as long, in which the event loop has to share the interpreter.


def _lines(totals: Totals, now: float) -> Iterator[str]:
    for name, family in FAMILIES.items():
        series = totals.series.get(name)
        if not series:
            continue
        shown = f"{name}_total" if family.kind is Kind.COUNTER else name
        yield f"# HELP {shown} {family.help}\n# TYPE {shown} {_TYPES[family.kind]}\n"
        for labels, numbers in sorted(series.items()):
            said = ",".join(
                sorted(f'{label}="{_escape(value)}"' for label, value in zip(family.labels, labels, strict=True))
            )
            if family.buckets:
                yield _histogram(family, said, numbers)
            else:
                value = max(0.0, now - numbers[0]) if family.kind in (Kind.AGE, Kind.SINCE) else numbers[0]
                yield f"{shown}{{{said}}} {value}\n" if said else f"{shown} {value}\n"


def _histogram(family: Family, said: str, numbers: Numbers) -> str:
    *counts, total = numbers
    name = family.name
    bounds = (*map(float, family.buckets), "+Inf")
    cumulative = list(itertools.accumulate(counts))
    lines = [f'{name}_bucket{{le="{bound}",{said}}} {value}\n' for bound, value in zip(bounds, cumulative, strict=True)]
    return "".join([*lines, f"{name}_count{{{said}}} {cumulative[-1]}\n", f"{name}_sum{{{said}}} {total}\n"])


@lru_cache(1024)
def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


_TYPES = {
    Kind.COUNTER: "counter",
    Kind.HISTOGRAM: "histogram",
    Kind.SUM: "gauge",
    Kind.MAX: "gauge",
    Kind.AGE: "gauge",
    Kind.SINCE: "gauge",
}
