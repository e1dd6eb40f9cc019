"""The recorder of one process's metrics. A request only appends to lists; `flush` counts them in bulk.

One `observe` of prometheus_client costs a tenth of a whole request, and a request takes seven.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engine.messages import BlockAnswer
from service.engine.served_models import Key, ServedModel
from service.problems import REASONS, ModelFailed, NotFound, Unauthorized
from service.telemetry.drift import Drift
from service.telemetry.feedback.accuracy import OUTCOMES
from service.telemetry.metrics import families, retention
from service.telemetry.metrics.families import Family, Gauge, Group, Labels
from service.telemetry.metrics.snapshots import KEEPER, Shared
from service.telemetry.metrics.totals import Snapshot, Totals, merge_seen

logger = logging.getLogger(__name__)

STAGES = ("read", "decode", "queue", "compute", "encode")

Stages = tuple[float, float, float, float, float]
"""Where the time of one answered request went: the seconds of each of STAGES, which together are all of it."""

MAX_CLASSES = 10
"""Models with more classes have no counter for each."""

ABSTENTIONS = ("blank", "outlier")

RESTART_REASONS = ("crashed", "hung", "failed_start", "slow_start", "selftest", "memory")

_REASONS_OF_MODELS = [reason for reason in REASONS if reason not in (NotFound.reason, Unauthorized.reason)]

_REMEMBERED = 100

REST_SECONDS = 2.0
"""Between two snapshots of a process that has nothing new to report; well below retention.LIVE_SECONDS."""


class Recorder:
    """Records the metrics of the process that calls it, and leaves snapshots in `folder` for all to sum.

    `request`, `image_failures`, `block` and `flush` must be called by one thread; the others may be called by any.
    Must be made, or first be used, after the fork; `keeper` is the one that never dies before the others.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keeper: bool = False,
        drift: Drift | None = None,
        takes_feedback: bool = False,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._shared = Shared(folder)
        self._drift = drift
        self._takes_feedback = takes_feedback
        self._name = KEEPER if keeper else ""
        self._rest_seconds = rest_seconds
        self._lock = threading.Lock()
        self._totals = Totals()
        self._gauges: dict[tuple[Family, Labels], float] = {}
        self._seen: dict[Group, float] = {}
        self._momentary: dict[tuple[Family, Labels], float] = {}
        self._absorbed: list[str] = []
        self._prepared: set[Key] = set()
        self._snapshots = self._written = 0
        self._flushed = -math.inf
        self._write_lock = threading.Lock()
        self._trouble = ""  # the error that was logged last: this is tried several times a second
        self._begin()

    def _begin(self) -> None:
        self._added = False
        self._answered: defaultdict[ServedModel, list[float]] = defaultdict(list)
        self._refused: Counter[tuple[str, str, int, str]] = Counter()
        self._image_failures: Counter[tuple[str, str, str]] = Counter()
        self._with_keys: Counter[tuple[str, int]] = Counter()
        self._abstained: Counter[tuple[str, str, str]] = Counter()
        self._blocks: defaultdict[ServedModel, list[float]] = defaultdict(list)
        self._class_ids: defaultdict[ServedModel, list[int]] = defaultdict(list)
        self._confidences: defaultdict[ServedModel, list[float]] = defaultdict(list)
        self._scores: defaultdict[ServedModel, list[float]] = defaultdict(list)
        self._blank: Counter[ServedModel] = Counter()

    # On the way of a request

    def answered(self, model: ServedModel, stages: Stages) -> None:
        """Count a request that got its predictions."""
        self._answered[model].extend(stages)

    def refused(self, model: ServedModel | None, code: int, reason: str) -> None:
        """Count a request that got none; the model is None when it was not resolved."""
        name, version = _labels(model.key) if model else ("", "")
        self._refused[name, version, code, reason] += 1

    def asked_with_key(self, name: str, code: int) -> None:
        """Count a request that bore the API key `name`; it is counted as answered or refused, too."""
        self._with_keys[name, code] += 1

    def image_failures(self, model: ServedModel, reason: str, number: int) -> None:
        """Images got an error although others of their request or batch did not."""
        self._image_failures[(*_labels(model.key), reason)] += number

    def abstained(self, model: ServedModel, *, blank: int, foreign: int) -> None:
        """Count images that got no label."""
        for reason, number in zip(ABSTENTIONS, (blank, foreign), strict=True):
            self._abstained[(*_labels(model.key), reason)] += number
        self._blank[model] += blank

    def block(self, model: ServedModel, answer: BlockAnswer) -> None:
        """Count a block that a worker answered."""
        self._blocks[model].extend((len(answer.class_ids), answer.batch_size, answer.compute_seconds))
        self._class_ids[model] += answer.class_ids
        self._confidences[model] += answer.confidences
        if model.manifest.distributions is not None:
            self._scores[model] += answer.scores

    # Now and then

    def load(self, model: str, version: int, *, ok: bool, seconds: float) -> None:
        """Count an attempt to load a version; one that succeeds has passed the first self-test."""
        with self._lock:
            for result in ("ok", "refused"):  # both are there from the first attempt on: Prometheus sees the first 1
                self._totals.numbers(families.LOADS, (model, result))
            result = "ok" if ok else "refused"
            self._totals.add(families.LOADS, (model, result))
            self._totals.observe(families.LOAD_SECONDS, (model, result), [seconds])
            if ok:
                self._gauges[families.LOADED_TIME, (model, str(version))] = time.time()
                self._count_selftest((model, str(version)), ok=True)
            self._seen[model, str(version)] = time.monotonic()
        self._write()
        self.prune()

    def selftest(self, model: str, version: int, *, ok: bool) -> None:
        """Count a self-test of a version that is served."""
        with self._lock:
            self._count_selftest((model, str(version)), ok=ok)
        self._write()

    def registry_read(self, at: float) -> None:
        """Record when the registry was last read, on time.monotonic()'s clock."""
        with self._lock:
            self._gauges[families.REGISTRY_AGE, ()] = at
        self._write()

    def _count_selftest(self, labels: tuple[str, str], *, ok: bool) -> None:
        for result in ("ok", "failed"):
            self._totals.numbers(families.SELF_TESTS, (*labels, result))
        self._totals.add(families.SELF_TESTS, (*labels, "ok" if ok else "failed"))
        self._seen[labels] = now = time.monotonic()
        if ok:
            self._gauges[families.SELF_TEST_AGE, labels] = now

    def worker_restart(self, pid: int | None, reason: str) -> None:
        """Count the restart of a worker, whose process was `pid`, for one of RESTART_REASONS."""
        with self._lock:
            self._totals.add(families.WORKER_RESTARTS, (reason,))
        self.absorb(pid)

    def http_restart(self, pid: int | None) -> None:
        """Count the restart of an HTTP process, which was `pid`."""
        with self._lock:
            self._totals.add(families.HTTP_RESTARTS, ())
        self.absorb(pid)

    def add(self, family: Family, amount: float, *labels: str) -> None:
        """Count something that happens seldom; it is written with the next flush."""
        with self._lock:
            self._totals.add(family, labels, amount)
            self._added |= bool(amount)

    # Handing in

    def open(self) -> None:
        """Set the supervisor's counters to 0, so that their first increase is seen."""
        with self._lock:
            for reason in RESTART_REASONS:
                self._totals.numbers(families.WORKER_RESTARTS, (reason,))
            self._totals.numbers(families.HTTP_RESTARTS, ())
        self._write()

    def absorb(self, pid: int | None) -> None:
        """Keep what a dead process counted, and forget its gauges; for the supervisor."""
        names = [] if pid is None else self._shared.names(pid)
        with self._lock:
            for name in names:
                if snapshot := self._shared.read(name):
                    self._totals.merge(snapshot.totals.without_gauges())
                    merge_seen(self._seen, snapshot.seen)
            self._absorbed = [*self._absorbed, *names][-_REMEMBERED:]
        if self._write():
            for name in self._absorbed:  # with those that could not be written down before
                self._shared.remove(name)
        self.prune()

    def flush(
        self, offered: Iterable[ServedModel], gauges: Iterable[Gauge], *, rests: bool = True
    ) -> Callable[[], bool] | None:
        """Count what has happened since the last flush; the caller must call what this gives, on whatever thread.

        It is None where nothing has happened and a process that `rests` need not say so again.
        """
        now = time.monotonic()
        momentary = {(family, labels): value for family, labels, value in gauges}
        with self._lock:
            is_old = now - self._flushed >= self._rest_seconds
            if rests and not is_old and momentary == self._momentary and not self._has_news():
                return None
            self._flushed = now
            self._momentary = momentary
            for model in offered:
                self._seen[_labels(model.key)] = now
                if model.key not in self._prepared:
                    self._prepare(model)
            self._count_requests(now)
            self._count_blocks(now)
            self._begin()
            number, data = self._snapshot()
        return lambda: self._put(number, data)

    def _has_news(self) -> bool:
        return bool(self._answered or self._refused or self._image_failures or self._blocks or self._added)

    def prune(self) -> None:
        """Forget versions that no process has mentioned for long."""
        is_kept = retention.kept(self._shared.read_all().seen, time.monotonic())
        with self._lock:
            self._totals.drop(lambda group: not is_kept(group))
            self._seen = {group: time for group, time in self._seen.items() if is_kept(group)}
            self._gauges = {key: value for key, value in self._gauges.items() if is_kept(key[0].group_of(key[1]))}
            self._prepared = {key for key in self._prepared if is_kept(_labels(key))}

    def _prepare(self, model: ServedModel) -> None:
        """Set a version's counters to 0 before they increase: Prometheus sees no increase in what was not there."""
        self._prepared.add(model.key)
        labels = _labels(model.key)
        numbers = self._totals.numbers
        numbers(families.REQUESTS, (*labels, "200"))
        for reason in _REASONS_OF_MODELS:
            numbers(families.REQUEST_FAILURES, (*labels, reason))
        for stage in STAGES:
            numbers(families.STAGE_SECONDS, (*labels, stage))
        for family in (families.REQUEST_SECONDS, families.IMAGES, families.EXECUTIONS, families.BATCH_SIZE):
            numbers(family, labels)
        for reason in ABSTENTIONS if model.outliers else ():
            numbers(families.ABSTAINED, (*labels, reason))
        for outcome in OUTCOMES if self._takes_feedback else ():
            numbers(families.FEEDBACK, (*labels, outcome))
        for reason in REASONS:
            numbers(families.REQUEST_FAILURES, ("", "", reason))
        for name in model.classes if len(model.classes) <= MAX_CLASSES else ():
            numbers(families.CLASSES, (*labels, name))

    def _count_requests(self, now: float) -> None:
        for model, values in self._answered.items():
            labels = _labels(model.key)
            self._seen[labels] = now
            requests = _floats(values).reshape(-1, len(STAGES))
            self._totals.add(families.REQUESTS, (*labels, "200"), len(requests))
            for stage, seconds in zip(STAGES, requests.T, strict=True):
                self._totals.observe(families.STAGE_SECONDS, (*labels, stage), seconds)
            self._totals.observe(families.REQUEST_SECONDS, labels, requests.sum(axis=1))
            self._gauges[families.LAST_ANSWER, labels] = time.time()
        for (name, version, code, reason), number in self._refused.items():
            self._seen[name, version] = now
            self._totals.add(families.REQUESTS, (name, version, str(code)), number)
            self._totals.add(families.REQUEST_FAILURES, (name, version, reason), number)
        for (name, code), number in self._with_keys.items():
            self._totals.add(families.KEY_REQUESTS, (name, str(code)), number)
        for failed, number in self._image_failures.items():
            self._totals.add(families.IMAGE_FAILURES, failed, number)
        for abstained, number in self._abstained.items():
            self._totals.add(families.ABSTAINED, abstained, number)

    def _count_blocks(self, now: float) -> None:
        for model in self._blank.keys() - self._blocks.keys():
            self._watch(model, np.empty(0, np.int32), np.empty(0))
        for model, values in self._blocks.items():
            labels = _labels(model.key)
            self._seen[labels] = now
            images, batch_sizes, compute_seconds = _floats(values).reshape(-1, 3).T
            # A batch is told of by each block in it; they share it, so that together they count it once.
            shares = images / batch_sizes
            self._totals.add(families.IMAGES, labels, float(images.sum()))
            self._totals.add(families.EXECUTIONS, labels, float(shares.sum()))
            self._totals.add(families.BUSY_SECONDS, labels, float(shares @ compute_seconds))
            self._totals.observe(families.BATCH_SIZE, labels, batch_sizes, shares)
            self._count_predictions(model, labels)

    def _count_predictions(self, model: ServedModel, labels: tuple[str, str]) -> None:
        class_ids = np.frombuffer(struct.pack(f"{len(self._class_ids[model])}i", *self._class_ids[model]), np.int32)
        computed = class_ids >= 0
        if failed := int(np.count_nonzero(~computed)):
            self._totals.add(families.IMAGE_FAILURES, (*labels, ModelFailed.reason), failed)
        confidences = _floats(self._confidences[model])
        self._totals.observe(families.CONFIDENCE, labels, confidences[computed])
        self._watch(model, class_ids, confidences)
        if len(model.classes) <= MAX_CLASSES:
            for name, number in zip(model.classes, np.bincount(class_ids[computed]).tolist(), strict=False):
                self._totals.add(families.CLASSES, (*labels, name), number)

    def _watch(
        self, model: ServedModel, class_ids: npt.NDArray[np.int32], confidences: npt.NDArray[np.float64]
    ) -> None:
        """Compare predictions with those that the manifest has; a class id below 0 is none."""
        if self._drift is not None and model.manifest.distributions is not None:
            computed = class_ids >= 0
            scores = _floats(self._scores[model])
            scores = scores[computed] if len(scores) else scores
            self._drift.add(model, class_ids[computed], confidences[computed], scores, blank=self._blank[model])

    def _snapshot(self) -> tuple[int, bytes]:
        everything = Totals()
        everything.series = defaultdict(dict, self._totals.series)
        for (family, labels), value in (self._gauges | self._momentary).items():
            everything.numbers(family, labels)[0] = value
        self._snapshots += 1
        return self._snapshots, Snapshot(everything, self._seen, self._absorbed).to_bytes()

    def _write(self) -> bool:
        with self._lock:
            number, data = self._snapshot()
        return self._put(number, data)

    def _put(self, number: int, data: bytes) -> bool:
        """Write a snapshot unless a newer one is there; False when the disk does not take it."""
        with self._write_lock:
            if number > self._written:  # two threads may come in the other order, and counters must not go back
                self._name = self._name or self._shared.name()
                try:
                    self._shared.write(self._name, data)
                except OSError as error:
                    if str(error) != self._trouble:
                        self._trouble = str(error)
                        logger.warning("metrics cannot be written, and stand still: %s", error)
                    return False
                self._trouble = ""
                self._written = number
            return True


def _floats(values: list[float]) -> npt.NDArray[np.float64]:
    """Return a list as an array; numpy's own functions take eight times as long."""
    return np.frombuffer(struct.pack(f"{len(values)}d", *values), np.float64)


def _labels(key: Key) -> tuple[str, str]:
    return key[0], str(key[1])
