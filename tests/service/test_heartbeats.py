"""What one process writes, another reads."""

from __future__ import annotations

import math
import time

from service.heartbeats import Heartbeats
from tests.preloaded import FORKS


def live(heartbeats: Heartbeats) -> None:
    heartbeats.beat(1, time.monotonic(), 7)


def test_a_beat_in_another_process_is_seen_here() -> None:
    heartbeats = Heartbeats(2)
    process = FORKS.Process(target=live, args=(heartbeats,))

    process.start()
    process.join()

    assert [heartbeats.is_up(0), heartbeats.is_up(1)] == [False, True]
    assert 0 <= heartbeats.silence(1) < heartbeats.silence(0)
    assert [heartbeats.batches(0), heartbeats.batches(1)] == [0, 7]


def test_the_age_of_a_worker_counts_from_its_first_beat() -> None:
    heartbeats = Heartbeats(1)
    now = time.monotonic()

    heartbeats.beat(0, now - 9, 0)
    heartbeats.beat(0, now, 1)

    assert 9 <= heartbeats.age(0) < 99


def test_a_new_process_starts_without_the_beats_of_the_last() -> None:
    heartbeats = Heartbeats(1)
    heartbeats.beat(0, time.monotonic(), 7)

    heartbeats.reset(0)

    assert not heartbeats.is_up(0)
    assert heartbeats.batches(0) == 0


def test_what_a_worker_computed_when_it_died_is_known_to_its_successor() -> None:
    heartbeats = Heartbeats(2)
    heartbeats.compute(0, b"a@1")
    heartbeats.compute(1, b"b@1")
    heartbeats.compute(1, None)
    computing = [heartbeats.computing(worker) for worker in range(2)]

    for worker in range(2):
        heartbeats.reset(worker)

    assert computing == ["a@1", ""]
    assert [heartbeats.suspect(worker) for worker in range(2)] == [b"a@1", b""]
    assert [heartbeats.computing(worker) for worker in range(2)] == ["", ""]


def test_a_process_that_has_never_beaten_is_silent_for_ever() -> None:
    heartbeats = Heartbeats(1, 2)

    heartbeats.other_beat(1, time.monotonic())

    assert heartbeats.other_silence(0) == math.inf
    assert heartbeats.other_silence(1) < 60


def test_draining_begins_once_and_for_all() -> None:
    heartbeats = Heartbeats(1)
    before = heartbeats.draining

    heartbeats.drain()

    assert (before, heartbeats.draining) == (False, True)
