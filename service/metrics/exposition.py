"""Every process's numbers as Prometheus reads them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics import families, retirement
from service.metrics.families import FAMILIES, Family, Kind, Labels
from service.metrics.recorder import Gauge
from service.metrics.shared import Shared
from service.metrics.totals import Numbers, Totals

MEDIA_TYPE = CONTENT_TYPE_LATEST

_OF_VERSIONS_ON_OFFER = (families.LOADED_TIME, families.SELF_TEST_AGE)


def expose(folder: Path, gauges: Iterable[Gauge] = ()) -> bytes:
    """The exposition of what all processes have left in `folder`, and of `gauges`, which are of this moment."""
    now = time.monotonic()
    everything = Shared(folder).read_all()
    totals = everything.totals
    is_shown = retirement.shown(everything.seen, now)
    totals.drop(lambda group: not is_shown(group))
    _leave_to_the_living(totals)
    for family, labels, value in gauges:
        totals.numbers(family, labels)[0] = value
    registry = CollectorRegistry()
    registry.register(_Collector(totals, now))
    return generate_latest(registry)


def _leave_to_the_living(totals: Totals) -> None:
    """A worker says when it loaded a version, but not when it let it go: others say what is on offer."""
    on_offer = {families.MODEL_INFO.group_of(labels) for labels in totals.series[families.MODEL_INFO.name]}
    for family in _OF_VERSIONS_ON_OFFER:
        series = totals.series[family.name]
        totals.series[family.name] = {labels: n for labels, n in series.items() if family.group_of(labels) in on_offer}


class _Collector(Collector):
    def __init__(self, totals: Totals, now: float) -> None:
        self._totals = totals
        self._now = now

    def collect(self) -> Iterable[Metric]:
        for name, family in FAMILIES.items():
            series = self._totals.series.get(name)
            if series:
                yield self._metric(family, series)

    def _metric(self, family: Family, series: dict[Labels, Numbers]) -> Metric:
        ordered = sorted(series.items())
        if family.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
            bounds = [*map(str, map(float, family.buckets)), "+Inf"]
            for labels, (*counts, total) in ordered:
                buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
                histogram.add_metric(labels, buckets, total)
            return histogram
        if family.kind is Kind.COUNTER:
            counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
            for labels, numbers in ordered:
                counter.add_metric(labels, numbers[0])
            return counter
        gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
        for labels, numbers in ordered:
            is_time = family.kind in (Kind.AGE, Kind.SINCE)
            gauge.add_metric(labels, max(0.0, self._now - numbers[0]) if is_time else numbers[0])
        return gauge
