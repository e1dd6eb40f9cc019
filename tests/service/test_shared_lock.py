"""A lock is for one process at a time, and no longer than that process lives."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from service.shared_lock import SharedLock


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    mine, other = SharedLock(tmp_path / "lock"), SharedLock(tmp_path / "lock")

    taken = [mine.take(), other.take()]
    mine.free()

    assert taken == [True, False]
    assert other.take()


def test_a_process_that_dies_leaves_it_free(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=SharedLock(tmp_path / "lock").take)
    process.start()
    process.join()

    assert SharedLock(tmp_path / "lock").take()


def test_freeing_what_was_never_taken_does_nothing(tmp_path: Path) -> None:
    SharedLock(tmp_path / "lock").free()
