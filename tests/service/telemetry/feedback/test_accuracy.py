"""How often predictions were right, from counters, with an interval."""

from __future__ import annotations

import math
from math import comb

import pytest

from service.telemetry.feedback.accuracy import Accuracy, accuracies, gauges, wilson
from service.telemetry.metrics import families
from service.telemetry.metrics.totals import Totals


def counted(**outcomes: int) -> Totals:
    totals = Totals()
    for outcome, number in outcomes.items():
        totals.add(families.FEEDBACK, ("rows", "3", outcome), number)
    return totals


@pytest.mark.parametrize(("right", "n"), [(90, 100), (1, 4), (500, 10_000)])
def test_a_bound_is_what_the_share_is_1_96_deviations_of_the_bound_away_from(right: int, n: int) -> None:
    for bound in wilson(right, n):
        assert abs(right / n - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n))


def test_the_interval_of_few_stays_between_0_and_1() -> None:
    assert wilson(0, 3) == pytest.approx((0.0, 0.561497), abs=1e-6)
    assert wilson(3, 3) == pytest.approx((0.438503, 1.0), abs=1e-6)


@pytest.mark.parametrize(("share", "n"), [(0.9, 50), (0.5, 20), (0.98, 400)])
def test_the_interval_holds_the_truth_in_95_of_100_cases(share: float, n: int) -> None:
    held = sum(
        comb(n, right) * share**right * (1 - share) ** (n - right)
        for right in range(n + 1)
        if (bounds := wilson(right, n))[0] <= share <= bounds[1]
    )

    assert held == pytest.approx(0.95, abs=0.025)


def test_abstentions_count_neither_way() -> None:
    (found,) = accuracies(counted(right=8, wrong=2, abstained=5))

    assert found == Accuracy("rows", "3", 8, 2, 5)
    assert (found.n, found.share, found.interval) == (10, 0.8, wilson(8, 10))


def test_a_version_without_feedback_has_no_accuracy() -> None:
    assert list(accuracies(counted(right=0, wrong=0, abstained=0))) == []
    (abstained,) = accuracies(counted(abstained=1))
    assert (abstained.share, abstained.interval) == (None, None)
    assert list(gauges(counted(abstained=1))) == []


def test_metrics_have_the_share_between_its_bounds() -> None:
    found = {labels[2]: value for _, labels, value in gauges(counted(right=8, wrong=2))}

    assert found["lower"] < found["estimate"] == 0.8 < found["upper"]
    assert math.isclose(found["lower"], wilson(8, 10)[0])
