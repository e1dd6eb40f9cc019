"""Divergence: a run whose loss ends above that of guessing. Knows nothing about why."""

from __future__ import annotations

import torch

from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters

_WORSE = 1.1
"""Times the loss of guessing; a run that has only just begun to learn is near 1."""


def guessing_loss(data: Dataset, hyper: HyperParameters) -> float:
    """Return the lowest loss on `data` of a network that gives every input the same probabilities."""
    shares = data.labels.bincount(minlength=len(data.classes)).double() / len(data)
    smooth = (1 - hyper.label_smoothing) * shares + hyper.label_smoothing / len(data.classes)
    return float(torch.special.entr(smooth).sum())


def diverged(loss: float, data: Dataset, hyper: HyperParameters) -> str | None:
    """Return how a last epoch with that training loss diverged, with both numbers, or None if it did not."""
    guessing = guessing_loss(data, hyper)
    if loss <= _WORSE * guessing:
        return None
    return f"the run diverged: its training loss ended at {loss:.3g}, where guessing gives {guessing:.3g}"
