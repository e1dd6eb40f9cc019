"""The numbers behind /metrics, summed over HTTP processes by prometheus_client's files in PROMETHEUS_MULTIPROC_DIR.

That variable must be set before this module is imported. A request only appends to lists here; `flush` moves them
into prometheus_client in bulk, because one `observe` costs a tenth of a whole request.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MEDIA_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_REGISTRY = CollectorRegistry()
"""Not the default one: what is read back comes from the files, of every process."""

_requests = prometheus_client.Counter(
    "inference_requests", "Requests answered.", ["model", "version", "code"], registry=_REGISTRY
)
_images = prometheus_client.Counter("inference_images", "Images computed.", ["model", "version"], registry=_REGISTRY)
_request_seconds = Histogram(
    "inference_request_duration_seconds",
    "From the arrival of a request to its answer.",
    ["model", "version"],
    buckets=_SECONDS,
    registry=_REGISTRY,
)
_stage_seconds = Histogram(
    "inference_stage_duration_seconds",
    "Parts of a request, for each block of images.",
    ["model", "version", "stage"],
    buckets=_SECONDS,
    registry=_REGISTRY,
)
_batch_size = Histogram(
    "inference_batch_size",
    "Images computed together, seen from each block.",
    ["model", "version"],
    buckets=_SIZES,
    registry=_REGISTRY,
)
_queue_depth = Gauge(
    "inference_queue_depth",
    "Images accepted and not answered.",
    registry=_REGISTRY,
    multiprocess_mode="livesum",
)

Labels = tuple[str, str]


class Recorder:
    """What happened in one HTTP process since the last `flush`."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._images: Counter[Labels] = Counter()
        self._request_seconds: dict[Labels, list[float]] = {}
        self._stage_seconds: dict[tuple[str, str, str], list[float]] = {}
        self._batch_sizes: dict[Labels, list[float]] = {}

    def request(self, model: str, version: str, code: int, seconds: float) -> None:
        self._requests[model, version, code] += 1
        self._request_seconds.setdefault((model, version), []).append(seconds)

    def block(
        self, model: str, version: str, *, images: int, batch_size: int, queue_seconds: float, compute_seconds: float
    ) -> None:
        self._images[model, version] += images
        self._batch_sizes.setdefault((model, version), []).append(batch_size)
        self._stage_seconds.setdefault((model, version, "queue"), []).append(queue_seconds)
        self._stage_seconds.setdefault((model, version, "compute"), []).append(compute_seconds)

    def flush(self, queue_depth: int) -> None:
        """Hand everything to prometheus_client."""
        for (model, version, code), number in self._requests.items():
            _requests.labels(model, version, str(code)).inc(number)
        for labels, number in self._images.items():
            _images.labels(*labels).inc(number)
        for histogram, series in (
            (_request_seconds, self._request_seconds),
            (_stage_seconds, self._stage_seconds),
            (_batch_size, self._batch_sizes),
        ):
            for names, values in series.items():
                _observe_all(histogram.labels(*names), values)
        _queue_depth.set(queue_depth)
        self.__init__()  # type: ignore[misc]


def expose() -> bytes:
    """The exposition of every process's numbers, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """Take the gauges of a process that has died out of the sums; its counters stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _observe_all(histogram: Histogram, values: Iterable[float]) -> None:
    """`histogram.observe` for each of `values`, one write a bucket instead of two a value."""
    ordered = sorted(values)
    bounds: list[float] = histogram._upper_bounds
    places = [bisect.bisect_right(ordered, bound) for bound in bounds]
    for bucket, number in zip(histogram._buckets, map(int.__sub__, places, [0, *places]), strict=False):
        if number:
            bucket.inc(number)
    histogram._sum.inc(sum(ordered))
