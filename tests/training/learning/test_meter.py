from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.errors import TrainingError
from training.learning.distributed import World
from training.learning.meter import TOGETHER, Meter

CPU = torch.device("cpu")


def right(n: int, of: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of `of` examples, the first `n` of which are classified rightly."""
    labels = torch.zeros(of, dtype=torch.int64)
    classes = (torch.arange(of) >= n).long()
    return torch.nn.functional.one_hot(classes, 2).float(), labels


def test_loss_and_accuracy_are_means_over_examples_and_not_over_batches() -> None:
    meter = Meter(1, 2, CPU)

    meter.add(torch.tensor(6.0), *right(3, of=4))
    meter.add(torch.tensor(4.0), *right(1, of=1))

    assert meter.examples == 5
    assert meter.read() == (2.0, 0.8)


@pytest.mark.parametrize("read_between", [False, True])
def test_more_batches_than_are_counted_at_once_are_all_counted(read_between: bool) -> None:
    n = 2 * TOGETHER + 3
    meter = Meter(1, n, CPU)

    for _ in range(n):
        meter.add(torch.tensor(1.0), *right(1, of=2))
        if read_between:
            assert meter.read() == (0.5, 0.5)

    assert meter.read() == (0.5, 0.5)
    assert meter.examples == 2 * n


def test_the_first_loss_that_is_not_finite_is_named() -> None:
    meter = Meter(3, 5, CPU)
    for loss in (1.0, torch.inf, torch.nan):
        meter.add(torch.tensor(loss), *right(1, of=1))

    with pytest.raises(TrainingError, match=r"Given: inf in epoch 3, iteration 2 of 5\. Try a smaller lr"):
        meter.read()


def test_the_counts_of_other_processes_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sum", lambda self, tensor: tensor.mul_(2))  # as if another one had counted the same
    meter = Meter(1, 1, CPU)
    meter.add(torch.tensor(3.0), *right(2, of=3))

    meter.gather(World(0, 2))

    assert meter.examples == 6
    assert meter.read() == pytest.approx((1.0, 2 / 3))
