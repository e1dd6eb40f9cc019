"""Divergence: a run whose loss ends above that of guessing. Knows nothing about why."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.trainer import EpochResult

_WORSE = 1.1
"""Times the loss of guessing; a run that has only just begun to learn is near 1."""

_STEPS = 100
"""A shorter run has only just begun: after 60 steps `neural_net_sgd_lr1`, which learns, is at 1.12 times."""


def guessing_loss(data: Dataset, hyper: HyperParameters) -> float:
    """Return the lowest loss on `data` of a network that gives every input the same probabilities."""
    shares = data.labels.bincount(minlength=len(data.classes)).double() / len(data)
    smooth = (1 - hyper.label_smoothing) * shares + hyper.label_smoothing / len(data.classes)
    return float(torch.special.entr(smooth).sum())


def diverged(history: Sequence[EpochResult], data: Dataset, hyper: HyperParameters) -> str | None:
    """Return how a run on `data` diverged, with its loss and that of guessing, or None if it did not.

    What counts is the epoch whose weights are kept.
    """
    if len(history) * hyper.iterations(len(data)) < _STEPS:
        return None
    loss, guessing = _kept(history, hyper).loss, guessing_loss(data, hyper)
    if loss <= _WORSE * guessing:
        return None
    return f"the run diverged: its training loss ended at {loss:.3g}, where guessing gives {guessing:.3g}"


def _kept(history: Sequence[EpochResult], hyper: HyperParameters) -> EpochResult:
    validated = [epoch for epoch in history if epoch.validation_loss is not None]
    return min(validated, key=_validation_loss) if hyper.patience and validated else history[-1]


def _validation_loss(epoch: EpochResult) -> float:
    loss = epoch.validation_loss
    return math.inf if loss is None or math.isnan(loss) else loss
