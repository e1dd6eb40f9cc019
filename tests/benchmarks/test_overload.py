"""What the overload benchmark makes of the answers to a load."""

from __future__ import annotations

import pytest

from benchmarks.overload import Outcome
from benchmarks.serving.load import TimedAnswer

IN_TIME = [TimedAnswer(200, 0.1)] * 90


def test_what_counts_is_answered_with_200_before_its_deadline() -> None:
    answers = [*IN_TIME, TimedAnswer(200, 0.6), TimedAnswer(429, 0.01), TimedAnswer(504, 0.51)]

    outcome = Outcome.of(answers, 0, deadline=0.5)

    assert outcome.row(2, possible=100) == "| 2 | 0.90 | 100 | 1 | 1 | 0 | 0 | 0 |"
    assert not outcome.fails(2, possible=100)


def test_less_than_nine_tenths_of_what_is_possible_fails() -> None:
    outcome = Outcome.of(IN_TIME, 0, deadline=0.5)

    assert outcome.fails(2, possible=101)
    assert not outcome.fails(0.5, possible=200)  # no more was asked


@pytest.mark.parametrize(
    ("answers", "missing"),
    [([TimedAnswer(500, 0.1)], 0), ([TimedAnswer(504, 1.6)], 0), ([], 1)],
    ids=["bug", "late", "none"],
)
def test_a_request_that_is_answered_wrongly_late_or_not_at_all_fails(answers: list[TimedAnswer], missing: int) -> None:
    assert Outcome.of([*IN_TIME, *answers], missing, deadline=0.5).fails(2, possible=100)


def test_nothing_in_time_is_said_as_such() -> None:
    assert Outcome.of([], 0, deadline=0.5).row(1, possible=100) == "| 1 | 0.00 | nan | 0 | 0 | 0 | 0 | 0 |"
