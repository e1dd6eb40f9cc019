"""Hyper-parameters that suit the user's own data, from those of a recipe made for tens of thousands of examples.

Knows nothing about networks. What was given on the command line stays as it was given.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters

logger = logging.getLogger(__name__)

LEAST_HELD_OUT = 10
"""Examples; fewer cannot tell one epoch from another, and are better learnt from."""
BATCHES = 8
"""The batches of an epoch that a small data set is divided into."""
SMALLEST_BATCH = 16
STEPS = 300
"""The least steps of a run, if that takes no more than `MOST_EPOCHS`."""
MOST_EPOCHS = 60


ADAPTED = ("held_out", "batch_size", "lr", "epochs", "small_share", "lr_schedule", "patience")
"""The hyper-parameters that `adapt` may change."""


def adapt(hyper: HyperParameters, data: Dataset, *, chosen: Collection[str]) -> HyperParameters:
    """Return `hyper` changed to suit all of `data`, except the hyper-parameters that were `chosen`.

    Batches become smaller, so that there are several in an epoch, and rates of SGD with them; epochs become more, so
    that there are enough steps; a larger share is held out; and the run stops when that is learnt no better.
    """
    changes: dict[str, Any] = {}

    def change(name: str, value: object) -> None:
        if name not in chosen and value != getattr(hyper, name):
            changes[name] = value

    def now(name: str) -> Any:
        return changes.get(name, getattr(hyper, name))

    if hyper.temperature == 1.0:
        change("held_out", _share(data, hyper))
    n = len(data) - _held_out(data, now("held_out"))
    change("batch_size", min(hyper.batch_size, max(SMALLEST_BATCH, _power_of_two(n // BATCHES)), n))
    if hyper.optimiser in ("sgd", "muon"):
        change("lr", float(f"{hyper.lr * now('batch_size') / hyper.batch_size:.3g}"))
    iterations = max(1, n // now("batch_size"))
    change("epochs", min(max(MOST_EPOCHS, hyper.epochs), max(hyper.epochs, -(-STEPS // iterations))))
    change("small_share", 0.0)
    if hyper.lr_schedule == "warm_restart":
        change("lr_schedule", "linear")
    if hyper.optimiser != "asgd":
        change("patience", max(5, now("epochs") // 2) if now("held_out") else 0)
    adapted = hyper.override(changes)
    if changed := _changed(hyper, adapted):
        logger.info("chosen for %s examples: %s", f"{len(data):,}", changed)
    return adapted


def _changed(before: HyperParameters, after: HyperParameters) -> str:
    """Return what differs, in words."""
    names = [name for name in HyperParameters.model_fields if getattr(before, name) != getattr(after, name)]
    return ", ".join(f"{name.replace('_', ' ')} {getattr(after, name)}" for name in names)


def _share(data: Dataset, hyper: HyperParameters) -> float:
    """Return the share of `data` to hold out: of a small set a large one."""
    share = max(hyper.held_out, 0.2 if len(data) < 1_000 else 0.1 if len(data) < 10_000 else 0.05)
    return share if _held_out(data, share) >= LEAST_HELD_OUT else 0.0


def _held_out(data: Dataset, share: float) -> int:
    """Return how many examples `Dataset.hold_out` takes: the share of each class, rounded down."""
    return int((data.labels.bincount().double() * share).floor().sum())


def _power_of_two(n: int) -> int:
    return 1 << max(n, 1).bit_length() - 1
