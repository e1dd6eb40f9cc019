from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.divergence import diverged, guessing_loss
from training.learning.trainer import EpochResult

HYPER = HyperParameters(epochs=1, batch_size=1, optimiser="sgd", lr=1)


def labelled(*counts: int) -> Dataset:
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    return Dataset("d", "train", torch.zeros(len(labels), 1), labels, tuple("abc"[: len(counts)]))


def test_the_loss_of_guessing_is_the_entropy_of_the_classes_as_they_are_smoothed() -> None:
    assert guessing_loss(labelled(5, 5, 5), HYPER) == pytest.approx(math.log(3))
    assert guessing_loss(labelled(9, 1), HYPER) == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    smooth = HYPER.override({"label_smoothing": 0.2})
    assert guessing_loss(labelled(9, 1), smooth) == pytest.approx(-0.82 * math.log(0.82) - 0.18 * math.log(0.18))


def run(*losses: float, validation: Sequence[float] = ()) -> list[EpochResult]:
    validated = [*validation, *[None] * len(losses)]
    return [EpochResult(n + 1, loss, 0.5, 1.0, validated[n], 0.5) for n, loss in enumerate(losses)]


def test_a_run_diverged_if_its_loss_ends_well_above_that_of_guessing() -> None:
    data = labelled(50, 50, 50)

    assert diverged(run(37.0, 1.1), data, HYPER) is None  # it has only just begun to learn
    assert diverged(run(1.1, 37.0), data, HYPER) == (
        "the run diverged: its training loss ended at 37, where guessing gives 1.1"
    )


def test_a_run_of_a_few_steps_has_not_diverged() -> None:
    assert diverged(run(37.0), labelled(30, 30, 30), HYPER) is None
    assert diverged(run(37.0, 37.0), labelled(30, 30, 30), HYPER) is not None


def test_a_run_that_keeps_its_best_epoch_is_judged_by_that() -> None:
    data, patient = labelled(50, 50, 50), HYPER.override({"held_out": 0.1, "patience": 2})
    history = run(0.5, 37.0, 37.0, validation=(0.4, math.nan, 30.0))

    assert diverged(history, data, patient) is None
    assert diverged(history, data, HYPER.override({"held_out": 0.1})) is not None
