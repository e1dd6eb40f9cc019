"""What one process writes, another reads."""

from __future__ import annotations

import multiprocessing
import time

from service.heartbeats import Vitals


def live(vitals: Vitals) -> None:
    vitals.beat(1, time.monotonic(), 7)


def test_a_beat_in_another_process_is_seen_here() -> None:
    vitals = Vitals(2)
    process = multiprocessing.get_context("spawn").Process(target=live, args=(vitals,))

    process.start()
    process.join()

    assert [vitals.is_up(0), vitals.is_up(1)] == [False, True]
    assert 0 <= vitals.silence(1) < vitals.silence(0)
    assert [vitals.batches(0), vitals.batches(1)] == [0, 7]


def test_the_age_of_a_worker_counts_from_its_first_beat() -> None:
    vitals = Vitals(1)
    now = time.monotonic()

    vitals.beat(0, now - 9, 0)
    vitals.beat(0, now, 1)

    assert 9 <= vitals.age(0) < 99


def test_a_new_process_starts_without_the_beats_of_the_last() -> None:
    vitals = Vitals(1)
    vitals.beat(0, time.monotonic(), 7)

    vitals.reset(0)

    assert not vitals.is_up(0)
    assert vitals.batches(0) == 0


def test_draining_begins_once_and_for_all() -> None:
    vitals = Vitals(1)
    before = vitals.draining

    vitals.drain()

    assert (before, vitals.draining) == (False, True)
