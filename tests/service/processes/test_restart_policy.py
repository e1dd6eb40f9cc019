"""Which deaths of workers a service bears, and for how long it waits after each."""

from __future__ import annotations

import pytest

from service.engine.dispatcher import MAX_ATTEMPTS
from service.processes.restart_policy import HOPELESS, Life, RestartPolicy, ServiceFailed
from service.settings import Settings

FAILED_START = Life(came_up=False, seconds=0.0, batches=0, exit_code=1)
SHORT = Life(came_up=True, seconds=1.0, batches=1, exit_code=-11)
LONG = Life(came_up=True, seconds=60.0, batches=0, exit_code=-9)
USEFUL = Life(came_up=True, seconds=1.0, batches=1000, exit_code=-9)


def policy() -> RestartPolicy:
    return RestartPolicy(Settings(max_failed_starts=3, max_short_lives=10))


def waits(restarts: RestartPolicy, *lives: Life) -> list[float]:
    return [restarts.wait_after(0, life) for life in lives]


def test_short_lives_in_a_row_end_the_service_with_the_reason() -> None:
    restarts = policy()
    waits(restarts, *[SHORT] * 9)

    with pytest.raises(ServiceFailed, match=r"worker 0 died 10 times in a row .* last with exit code -11"):
        restarts.wait_after(0, SHORT)


def test_one_bad_input_is_borne_and_all_its_deaths_are_replaced_at_once() -> None:
    assert waits(policy(), *[SHORT] * MAX_ATTEMPTS) == [0.0] * MAX_ATTEMPTS


def test_further_deaths_are_replaced_after_waits_that_grow_up_to_a_limit() -> None:
    assert waits(policy(), *[SHORT] * 9)[MAX_ATTEMPTS:] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]


def test_deaths_that_are_a_models_delay_the_next_start_and_never_end_the_service() -> None:
    restarts = policy()
    blamed = SHORT._replace(computed="rows@1")

    delays = waits(restarts, *[blamed] * 50)
    waits(restarts, *[SHORT] * 9)

    assert delays[:5] == [0.0, 0.0, 0.0, 0.25, 0.5]
    assert delays[-1] == 5.0


@pytest.mark.parametrize("sound", [LONG, USEFUL], ids=["long", "useful"])
def test_a_worker_that_served_breaks_the_row(sound: Life) -> None:
    restarts = policy()

    for _ in range(10):
        assert waits(restarts, *[SHORT] * 9, sound)[-1] == 0.0


def test_failed_starts_do_not_break_a_row_of_short_lives() -> None:
    restarts = policy()
    waits(restarts, *[FAILED_START, SHORT] * 9)

    with pytest.raises(ServiceFailed, match="died 10 times in a row"):
        restarts.wait_after(0, SHORT)


def test_the_deaths_of_different_workers_are_not_added_up() -> None:
    restarts = policy()

    assert [restarts.wait_after(number, SHORT) for number in range(20)] == [0.0] * 20


def test_a_worker_that_fails_to_start_is_given_up_sooner_and_one_that_says_so_at_once() -> None:
    restarts = policy()
    waits(restarts, FAILED_START, FAILED_START)

    with pytest.raises(ServiceFailed, match="failed to start 3 time"):
        restarts.wait_after(0, FAILED_START)
    with pytest.raises(ServiceFailed, match="failed to start 1 time"):
        restarts.wait_after(1, FAILED_START._replace(exit_code=HOPELESS))
