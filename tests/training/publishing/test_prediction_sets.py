from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.publishing.prediction_sets import coverage, floors


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Probabilities of five classes, and labels that are drawn by others: a badly calibrated classifier."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator).flatten()
    return logits.softmax(1), labels


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95, 0.99])
def test_sets_hold_the_truth_as_often_as_asked_whatever_the_calibration(wanted: float) -> None:
    sets = floors(*drawn(20_000, 0), data="drawn/held-out")

    covered, size = coverage(*drawn(20_000, 1), sets.floor(wanted))

    assert covered == pytest.approx(wanted, abs=0.01)
    assert size < 5


def test_sets_cover_each_way_in_which_an_example_may_come() -> None:
    (plain, labels), blurred = drawn(5_000, 0), drawn(5_000, 0)[0].sqrt()
    blurred = blurred / blurred.sum(1, keepdim=True)

    sets = floors(torch.cat([plain, blurred]), labels.repeat(2), data="drawn/held-out", ways=2)

    alone = [floors(each, labels, data="drawn/held-out").floor(0.9) for each in (plain, blurred)]
    assert sets.floor(0.9) == min(alone)
    assert sets.n == 5_000


def test_a_coverage_for_which_too_little_was_held_out_takes_every_class() -> None:
    sets = floors(*drawn(50, 0), data="drawn/held-out")

    assert sets.floor(0.99) == 0
    assert sets.floor(0.95) > 0
    assert coverage(*drawn(100, 1), sets.floor(0.99)) == (1.0, 5.0)


def test_a_coverage_between_two_steps_takes_the_safer_one() -> None:
    sets = floors(*drawn(5_000, 0), data="drawn/held-out")

    assert sets.floor(0.9001) == sets.floor(0.901) < sets.floor(0.9)
    assert list(sets.floors) == sorted(sets.floors, reverse=True)
