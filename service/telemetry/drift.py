"""Drift: how far a version's latest predictions are from those for held-out inputs, which its manifest has.

The latest predictions of each version are a window that all processes of a service share: each puts in the bins of its
own, in bulk, and any may look. A blank picture, which no network sees, counts among the strangest. Versions whose
manifest has no distributions are not watched. Knows nothing about HTTP.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.contract.manifest import MOST_WINDOW, Distribution
from service.engine.served_models import ServedModel
from service.model.distributions import bins_of_classes, bins_of_values, distance
from service.shared_lock import SharedLock
from service.telemetry.metrics import families
from service.telemetry.metrics.families import Gauge

DISTRIBUTIONS = ("class", "confidence", "outlier")

_VERSIONS = 256
"""Watched at a time; of more, the one that was not asked for longest begins anew."""

_NONE = 255  # no bin: of a blank picture there is only a score

_WINDOWS = np.dtype(
    [
        ("version", "<i8", _VERSIONS),
        ("used", "<f8", _VERSIONS),  # when a prediction was last put in, on time.monotonic()'s clock
        ("added", "<i8", _VERSIONS),
        ("bins", "u1", (_VERSIONS, MOST_WINDOW, len(DISTRIBUTIONS))),
    ]
)

Bins = npt.NDArray[np.uint8]


class State(NamedTuple):
    """The window of one version: how many predictions it holds and, once it is full, how far each distribution is."""

    images: int
    window: int
    ratios: dict[str, float]
    """The distance of each distribution, by its name, divided by its limit: more than 1 is drift."""

    @property
    def text(self) -> str:
        """The state in a word."""
        if not self.ratios:
            return "filling"
        return "drifting" if max(self.ratios.values()) > 1 else "ordinary"


class Drift:
    """The windows; make it before the forks. `add` is for one thread of each process. `folder` gets a file to lock."""

    def __init__(self, folder: Path) -> None:
        shared = np.frombuffer(mmap.mmap(-1, _WINDOWS.itemsize), _WINDOWS)[0]
        self._versions, self._used, self._added, self._bins = (shared[name] for name in _WINDOWS.names or ())
        self._lock = SharedLock(folder / "drift.lock")

    def add(
        self,
        model: ServedModel,
        class_ids: npt.NDArray[np.int32],
        confidences: npt.NDArray[np.float64],
        scores: npt.NDArray[np.float64],
        *,
        blank: int = 0,
    ) -> None:
        """Put predictions, and a number of blank pictures, into the window of a version that is watched.

        No more than a window's worth is looked at: 21 us for one prediction and 55 for 1,000, four times a second
        (timeit, two quiet cores of an AMD EPYC).
        """
        if (found := model.manifest.distributions) is None:
            return
        latest = slice(-MOST_WINDOW, None)
        class_ids = class_ids[latest]
        size = len(class_ids)
        bins = np.full((size + min(blank, MOST_WINDOW), len(DISTRIBUTIONS)), _NONE, np.uint8)
        bins[:size, 0] = bins_of_classes(class_ids, found.classes)
        bins[:size, 1] = bins_of_values(confidences[latest], found.confidences)
        if found.scores is not None:
            bins[:size, 2] = bins_of_values(scores[latest], found.scores)
            bins[size:, 2] = len(found.scores.counts) - 1
        if self._lock.take():  # else uncounted: nobody waits for a process that stands still
            try:
                self._put(hash(model.identity), bins[latest])
            finally:
                self._lock.free()

    def state(self, model: ServedModel) -> State | None:
        """Return how a version's latest predictions compare; None if it is not watched."""
        if (found := model.manifest.distributions) is None:
            return None
        place = self._place(hash(model.identity))
        added = 0 if place is None else int(self._added[place])
        if place is None or added < found.window:
            return State(added, found.window, {})
        bins = self._bins[place].take(np.arange(added - found.window, added) % MOST_WINDOW, axis=0)
        of_each = zip(DISTRIBUTIONS, (found.classes, found.confidences, found.scores), bins.T, strict=True)
        return State(found.window, found.window, {name: _ratio(own, known) for name, known, own in of_each if known})

    def gauges(self, models: Iterable[ServedModel]) -> Iterator[Gauge]:
        """Yield what /metrics says of each version that is watched."""
        for model in models:
            if (state := self.state(model)) is None:
                continue
            labels = model.name, str(model.version)
            yield families.DRIFT_IMAGES, labels, state.images
            for name, ratio in state.ratios.items():
                yield families.DRIFT, (*labels, name), ratio

    def _put(self, version: int, bins: Bins) -> None:
        place = self._place(version)
        if place is None:
            place = int(self._used.argmin())
            self._versions[place], self._added[place] = version, 0
        added = int(self._added[place])
        self._bins[place][np.arange(added, added + len(bins)) % MOST_WINDOW] = bins
        self._added[place], self._used[place] = added + len(bins), time.monotonic()

    def _place(self, version: int) -> int | None:
        found = (self._versions == version).nonzero()[0]
        return int(found[0]) if len(found) else None


def _ratio(bins: Bins, known: Distribution) -> float:
    counts = np.bincount(bins[bins != _NONE], minlength=len(known.counts))
    return float(distance(counts, np.asarray(known.counts))) / known.limit
