from __future__ import annotations

import math

import pytest
import torch

from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.divergence import diverged, guessing_loss

HYPER = HyperParameters(epochs=1, batch_size=1, optimiser="sgd", lr=1)


def labelled(*counts: int) -> Dataset:
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    return Dataset("d", "train", torch.zeros(len(labels), 1), labels, tuple("abc"[: len(counts)]))


def test_the_loss_of_guessing_is_the_entropy_of_the_classes_as_they_are_smoothed() -> None:
    assert guessing_loss(labelled(5, 5, 5), HYPER) == pytest.approx(math.log(3))
    assert guessing_loss(labelled(9, 1), HYPER) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    smooth = HYPER.override({"label_smoothing": 0.2})
    assert guessing_loss(labelled(9, 1), smooth) == pytest.approx(-0.82 * math.log(0.82) - 0.18 * math.log(0.18))


def test_a_run_diverged_if_its_loss_ends_well_above_that_of_guessing() -> None:
    data = labelled(5, 5, 5)

    assert diverged(1.1, data, HYPER) is None  # it has only just begun
    assert diverged(37.0, data, HYPER) == ("the run diverged: its training loss ended at 37, where guessing gives 1.1")
