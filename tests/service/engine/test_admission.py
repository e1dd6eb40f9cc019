"""Places in the queue and time are shared fairly between models and between requests."""

from __future__ import annotations

import pytest

from service.engine.admission import Admission
from service.problems import QueueFull

QUEUE = 4096
CHUNK = 32
SECONDS = 10.0
FLOODED, OTHER = ("cifar10", 1), ("mnist", 1)


def waiting(*sizes: int, max_queue: int = QUEUE) -> Admission:
    """Return an admission that has accepted requests of these sizes for one model."""
    admission = Admission(max_queue, CHUNK)
    for size in sizes:
        admission.accepted(admission.backlog(FLOODED), size)
    return admission


def admits(admission: Admission, images: int, key: tuple[str, int] = FLOODED, seconds: float = SECONDS) -> bool:
    try:
        admission.admit(key, images, seconds)
    except QueueFull:
        return False
    return True


def flood(admission: Admission, images: int, key: tuple[str, int] = FLOODED) -> int:
    """Ask for as many requests of a size as are accepted, and return how many."""
    accepted = 0
    while admits(admission, images, key):
        admission.accepted(admission.backlog(key), images)
        accepted += 1
    return accepted


@pytest.mark.parametrize("max_queue", [1, 8, 512, QUEUE])
def test_whatever_is_within_the_limits_is_accepted_while_nothing_waits(max_queue: int) -> None:
    assert admits(Admission(max_queue, CHUNK), 1024)


def test_a_request_larger_than_a_processs_part_of_the_queue_needs_half_of_it() -> None:
    assert admits(waiting(*[1] * 256, max_queue=512), 1024)
    assert not admits(waiting(*[1] * 257, max_queue=512), 1024)


@pytest.mark.parametrize("max_queue", [1, 8, 100, QUEUE])
def test_no_more_single_images_wait_than_the_queue_holds(max_queue: int) -> None:
    admission = Admission(max_queue, CHUNK)

    assert flood(admission, 1) == max_queue
    with pytest.raises(QueueFull, match=f"room for 1 more .* Given: {max_queue} of {max_queue} wait") as refusal:
        admission.admit(FLOODED, 1, SECONDS)
    assert int(refusal.value.headers["retry-after"]) >= 1


@pytest.mark.parametrize("flooded_with", [1, 64, 1024])
def test_a_flood_for_one_model_leaves_another_its_half_of_the_queue(flooded_with: int) -> None:
    admission = Admission(QUEUE, CHUNK)
    flood(admission, flooded_with)

    assert flood(admission, 1, OTHER) >= QUEUE // 2
    assert flood(admission, 1, ("third", 1)) >= QUEUE // 3


def test_large_requests_leave_places_for_single_images_of_the_same_model() -> None:
    admission = Admission(QUEUE, CHUNK)

    large = [flood(admission, size) for size in (1024, 512, 256, 128)]

    assert large[0] == 4
    assert admits(admission, 1)
    assert admission.depth < 2 * QUEUE


def test_a_single_image_waits_for_one_turn_of_each_request_ahead_and_not_for_all_of_them() -> None:
    admission = waiting(1024, 1024, 1024)
    admission.backlog(FLOODED).rate = 100.0

    one_turn_each = 3 * CHUNK / 100
    assert admits(admission, 1, seconds=1.2 * one_turn_each)
    assert not admits(admission, 1, seconds=1.1 * one_turn_each)  # a part of the time is kept for errors
    assert not admits(admission, 1024, seconds=3 * 1024 / 100)


def test_another_models_backlog_and_rate_do_not_count() -> None:
    admission = waiting(*[1024] * 4)
    admission.backlog(FLOODED).rate = 1.0
    admission.accepted(admission.backlog(OTHER), 1)

    assert admits(admission, 1, OTHER, seconds=0.001)


def computed(admission: Admission, *counts: int, busy: bool) -> float:
    """Let a process see so many images computed in one tenth of a second after the other; return the rate learnt."""
    for count in counts:
        if count:
            admission.block_computed(FLOODED, count, 0.05, count)
        admission.learn_rates(0.1, {FLOODED} if busy else set())
    return admission.backlog(FLOODED).rate


def test_a_rate_is_unknown_until_a_model_was_busy() -> None:
    assert computed(Admission(QUEUE, CHUNK), 30, 30, 30, busy=False) == 0


def test_the_first_rates_are_averaged_since_blocks_come_unevenly() -> None:
    assert computed(Admission(QUEUE, CHUNK), 64, 0, 0, 24, busy=True) == pytest.approx(88 / 0.4)


def test_a_rate_says_nothing_of_the_time_for_which_a_worker_hung() -> None:
    admission = Admission(QUEUE, CHUNK)
    computed(admission, 30, *[0] * 50, busy=True)
    admission.worker_lost()

    assert computed(admission, 30, busy=True) == pytest.approx(300)


def test_a_rate_follows_a_model_that_becomes_slower() -> None:
    assert computed(Admission(QUEUE, CHUNK), *[64] * 20, *[16] * 50, busy=True) == pytest.approx(160, rel=0.02)


def test_a_rate_that_was_too_low_rises_although_too_little_is_accepted_for_the_model_to_be_busy() -> None:
    admission = Admission(QUEUE, CHUNK)
    computed(admission, *[1] * 5, busy=True)

    assert computed(admission, *[30] * 50, busy=False) == pytest.approx(300, rel=0.01)


def test_another_models_images_and_the_time_without_any_do_not_change_a_rate() -> None:
    admission = Admission(QUEUE, CHUNK)
    rate = computed(admission, 30, busy=True)
    admission.block_computed(OTHER, 1000, 0.05, 1000)

    assert computed(admission, *[0] * 100, busy=False) == rate
    assert admission.backlog(OTHER).rate == 0


def test_a_model_that_is_served_no_longer_is_forgotten_once_nothing_of_it_waits() -> None:
    admission = waiting(1)
    backlog = admission.backlog(FLOODED)

    admission.keep(lambda _: False)
    kept = admission.backlog(FLOODED) is backlog
    admission.finished(backlog, 1, is_last=True)
    admission.keep(lambda _: False)

    assert kept
    assert admission.backlog(FLOODED) is not backlog
