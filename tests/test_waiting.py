"""Waiting ends with what was waited for, or with a word on what never came."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import settled, until, wait_until


def test_what_comes_true_is_returned() -> None:
    answers = iter([0, "", None, 7])

    assert wait_until(lambda: next(answers), interval=0) == 7


def test_what_never_comes_is_said() -> None:
    with pytest.raises(AssertionError, match="never came true: it was 3"):
        wait_until(lambda: False, seconds=0.01, interval=0, otherwise=lambda: f"it was {3}")


def test_the_event_loop_turns_meanwhile() -> None:
    async def story() -> bool:
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(done.set)
        return await until(done.is_set)

    assert asyncio.run(story())


def test_what_moves_is_returned_once_it_rests() -> None:
    answers = iter([1, 2, 3, 3, 4])

    assert settled(lambda: next(answers), interval=0) == 3
