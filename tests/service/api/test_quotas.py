"""A key's quota is one for all processes: a burst of a second's worth, then as much as the clock allows."""

from __future__ import annotations

import copy
import fcntl
from pathlib import Path

import pytest

from service.api import quotas as module
from service.api.keys import Key
from service.api.quotas import Quotas
from service.shared_lock import SharedLock


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(tmp_path: Path, clock: Clock) -> Quotas:
    return Quotas(tmp_path, clock=clock)


def key(number: int = 1, *, requests: float = 0, images: float = 0) -> Key:
    return Key(f"key-{number}", frozenset({"predict"}), f"{number:016x}{'0' * 48}", requests, images)


def another_process(quotas: Quotas) -> Quotas:
    """Return the same table as a process has it that was forked: with a lock of its own."""
    forked = copy.copy(quotas)
    forked._lock = SharedLock(quotas._lock._path)
    return forked


def test_an_idle_key_has_a_second_of_its_quota_and_then_what_time_brings(quotas: Quotas, clock: Clock) -> None:
    ten = key(requests=10)

    first = [quotas.use_request(ten) for _ in range(11)]
    clock.now += 0.25
    later = [quotas.use_request(ten) for _ in range(3)]

    assert first == [0.0] * 10 + [pytest.approx(0.1)]
    assert later == [0.0, 0.0, pytest.approx(0.05)]


def test_processes_share_a_quota(quotas: Quotas) -> None:
    ten = key(requests=10)
    processes = [another_process(quotas) for _ in range(4)]

    waits = [processes[number % 4].use_request(ten) for number in range(20)]

    assert waits.count(0.0) == 10


def test_a_process_that_stopped_with_the_lock_keeps_no_request_from_its_answer(quotas: Quotas, tmp_path: Path) -> None:
    one = key(requests=1)
    with (tmp_path / "quotas.lock").open("w") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        meanwhile = [quotas.use_request(one) for _ in range(3)]

    assert meanwhile == [0.0, 0.0, 0.0]
    assert [quotas.use_request(one) > 0 for _ in range(2)] == [False, True]


def test_a_request_of_more_images_than_a_second_allows_passes_while_nothing_is_owed(
    quotas: Quotas, clock: Clock
) -> None:
    hundred = key(images=100)

    waits = [quotas.use_images(hundred, 1000), quotas.use_images(hundred, 1), quotas.use_request(hundred)]
    clock.now += 10.0

    assert waits == [0.0, pytest.approx(9.01), pytest.approx(9.01)]
    assert quotas.use_images(hundred, 1000) == 0.0


def test_less_than_one_a_second_is_a_quota_too(quotas: Quotas, clock: Clock) -> None:
    slow = key(requests=0.5)

    waits = [quotas.use_request(slow), quotas.use_request(slow)]
    clock.now += 2.0

    assert waits == [0.0, pytest.approx(2.0)]
    assert quotas.use_request(slow) == 0.0


def test_keys_do_not_use_each_others_quota_even_where_they_share_places(quotas: Quotas) -> None:
    rivals = [key(1 + module._SETS * number, requests=1) for number in range(module._WAYS)]

    assert [quotas.use_request(rival) for rival in rivals] == [0.0] * module._WAYS
    assert all(quotas.use_request(rival) > 0 for rival in rivals)


def test_the_place_of_a_key_that_owes_nothing_is_given_away(quotas: Quotas, clock: Clock) -> None:
    old = [key(1 + module._SETS * number, requests=1) for number in range(module._WAYS)]
    for rival in old:
        quotas.use_request(rival)
    clock.now += 5.0
    new = key(1 + module._SETS * module._WAYS, requests=1)

    assert quotas.use_request(new) == 0.0
    assert quotas.use_request(new) > 0
    assert quotas.use_request(old[-1]) == 0.0
