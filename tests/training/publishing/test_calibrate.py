from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.publishing.calibrate import (
    COLDEST,
    HOTTEST,
    calibration,
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
)


def logits_of_known_temperature(temperature: float, n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Logits whose labels are drawn with softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, 10, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).flatten()


def test_nll_and_brier_are_those_of_the_definitions() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2

    result = calibration(logits, torch.tensor([0, 1]), temperature=1.0)

    assert result.nll == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert result.brier == pytest.approx(((1 / 16 + 1 / 16) + (1 / 4 + 1 / 4)) / 2)


def test_ece_is_the_gap_between_confidence_and_accuracy_weighted_over_fifteen_bins() -> None:
    confidences = torch.tensor([0.95, 0.99, 0.55, 0.6], dtype=torch.float64)
    correct = torch.tensor([True, False, True, True])

    error = expected_calibration_error(confidences, correct)

    # Two bins: mean confidence 0.97 at accuracy 0.5, and 0.575 at 1.
    assert error == pytest.approx(0.5 * (0.97 - 0.5) + 0.5 * (1 - 0.575))


@pytest.mark.parametrize(("confidence", "correct"), [(1.0, True), (1 / 15, False)])
def test_a_confidence_on_the_edge_of_a_bin_is_counted_once(confidence: float, correct: bool) -> None:
    error = expected_calibration_error(torch.tensor([confidence]), torch.tensor([correct]))

    assert error == pytest.approx(1 - confidence if correct else confidence)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_with_is_found_again(temperature: float) -> None:
    logits, labels = logits_of_known_temperature(temperature)

    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_the_fitted_temperature_has_the_least_nll_and_calibrates() -> None:
    logits, labels = logits_of_known_temperature(2.5)

    fitted = fit_temperature(logits, labels)

    result, overconfident = (calibration(logits, labels, temperature=t) for t in (fitted, 1.0))
    for other in (0.98 * fitted, 1.02 * fitted):
        assert result.nll < calibration(logits, labels, temperature=other).nll
    assert result.ece < 0.01 < 0.2 < overconfident.ece


def test_few_examples_without_a_mistake_do_not_make_the_probabilities_certain() -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(20, 1)

    fitted = fit_temperature(logits, torch.zeros(20, dtype=torch.int64))

    (confidence, _) = (logits[0] / fitted).softmax(0).tolist()
    assert confidence == pytest.approx(1 - 0.5 / 22, abs=1e-4)


def test_the_temperature_stays_within_bounds() -> None:
    logits = torch.tensor([[0.01, 0.0], [0.0, 0.01]]).repeat(1000, 1)
    labels = torch.tensor([0, 1]).repeat(1000)

    assert fit_temperature(logits, labels) == pytest.approx(COLDEST)
    assert fit_temperature(logits, 1 - labels) == pytest.approx(HOTTEST)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_bound_of_an_ece_is_exceeded_by_one_in_twenty_models_whose_probabilities_are_right(
    temperature: float,
) -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities = (2 * torch.randn(500, 10, generator=generator) / temperature).softmax(1)
    confidences, predicted = probabilities.max(1)

    bound = calibration_error_by_chance(confidences)

    beyond = 0
    for _ in range(1_000):
        labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
        beyond += expected_calibration_error(confidences, predicted == labels) > bound
    assert 30 <= beyond <= 70


def test_wrong_probabilities_exceed_the_bound_and_more_examples_lower_it() -> None:
    logits, labels = logits_of_known_temperature(2.5)

    right, wrong, few = (
        calibration(logits, labels, temperature=2.5),
        calibration(logits, labels, temperature=2.0),
        calibration(logits[:1_000], labels[:1_000], temperature=2.5),
    )

    assert right.ece < right.ece_bound < few.ece_bound
    assert wrong.ece > wrong.ece_bound


def test_a_model_that_is_certain_of_everything_has_no_chance_error() -> None:
    assert calibration_error_by_chance(torch.ones(30)) == 0
