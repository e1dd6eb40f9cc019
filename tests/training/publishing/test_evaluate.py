from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.errors import TrainingError
from training.publishing.evaluate import evaluate, logits_of


class AlwaysTheFirst(nn.Module):
    """Logit 1 for class 0, and a note of how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append((len(inputs), self.training, torch.is_grad_enabled()))
        return torch.tensor([[1.0, 0.0]]).repeat(len(inputs), 1)


def three_of_four() -> Dataset:
    return Dataset("points", "test", torch.zeros(4, 2), torch.tensor([0, 0, 1, 0]), ("a", "b"))


def test_loss_and_accuracy_are_the_mean_over_the_whole_split() -> None:
    result = evaluate(AlwaysTheFirst(), three_of_four())

    assert (result.data, result.n, result.accuracy) == ("points/test", 4, 0.75)
    assert result.predicted == (0, 0, 0, 0)
    assert result.loss == pytest.approx(math.log(1 + math.exp(-1)) + 0.25)


def test_confusion_and_results_per_class_count_labels_by_row_and_predictions_by_column() -> None:
    result = evaluate(AlwaysTheFirst(), three_of_four())

    first, second = result.per_class
    assert result.confusion == ((3, 0), (1, 0))
    assert (first.name, first.n, first.recall, first.precision) == ("a", 3, 1.0, 0.75)
    assert (second.name, second.n, second.recall) == ("b", 1, 0.0)
    assert math.isnan(second.precision)  # nothing was ever called b


def test_calibration_is_measured_before_and_after_the_temperature() -> None:
    result = evaluate(AlwaysTheFirst(), three_of_four(), temperature=0.5)

    assert (result.uncalibrated.temperature, result.calibrated.temperature) == (1.0, 0.5)
    assert result.uncalibrated.nll == result.loss
    assert result.uncalibrated.ece == pytest.approx(abs(0.75 - 1 / (1 + math.exp(-1))))
    assert result.calibrated.ece == pytest.approx(abs(0.75 - 1 / (1 + math.exp(-2))))


def test_the_classifier_is_evaluated_in_evaluation_mode_without_gradients_and_left_in_its_own() -> None:
    classifier = AlwaysTheFirst().train()

    evaluate(classifier, three_of_four())

    assert classifier.calls == [(4, False, False)]
    assert classifier.training


def test_batches_cover_every_input_once_the_last_one_partial() -> None:
    classifier = AlwaysTheFirst()

    logits = logits_of(classifier, torch.zeros(10, 2), batch_size=4)

    assert [size for size, _, _ in classifier.calls] == [4, 4, 2]
    assert logits.shape == (10, 2)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_logits_that_are_no_finite_numbers_are_an_error_and_no_measurement(value: float) -> None:
    class Sums(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.cat([inputs.sum(1, keepdim=True), torch.zeros(len(inputs), 1)], 1)

    data = three_of_four()
    data.inputs[2] = value

    with pytest.raises(TrainingError, match=r"finite numbers for every input of points/test\. Given: 1 of 4 for which"):
        evaluate(Sums(), data)
