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

    assert admits(admission, 1, seconds=3 * CHUNK / 100)
    assert not admits(admission, 1, seconds=3 * CHUNK / 100 - 0.01)
    assert not admits(admission, 1024, seconds=3 * 1024 / 100 - 1)


def test_another_models_backlog_and_rate_do_not_count() -> None:
    admission = waiting(*[1024] * 4)
    admission.backlog(FLOODED).rate = 1.0
    admission.accepted(admission.backlog(OTHER), 1)

    assert admits(admission, 1, OTHER, seconds=0.001)


def test_rates_are_learnt_of_busy_models_alone() -> None:
    admission = waiting(1)
    for key, answered in ((FLOODED, 50), (OTHER, 3)):
        admission.backlog(key).answered = answered

    admission.learn_rates(0.1, {FLOODED})

    assert (admission.backlog(FLOODED).rate, admission.backlog(OTHER).rate) == (500, 0)
    assert admission.backlog(OTHER).answered == 0


def test_a_model_that_is_served_no_longer_is_forgotten_once_nothing_of_it_waits() -> None:
    admission = waiting(1)
    backlog = admission.backlog(FLOODED)

    admission.keep(lambda _: False)
    kept = admission.backlog(FLOODED) is backlog
    admission.finished(backlog, 1, is_last=True)
    admission.keep(lambda _: False)

    assert kept
    assert admission.backlog(FLOODED) is not backlog
