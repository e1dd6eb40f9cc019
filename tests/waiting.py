"""Waiting for something to become true, with a limit: the only place where tests poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 30.0


def wait_until(
    condition: Callable[[], T], seconds: float = SECONDS, *, interval: float = 0.01, otherwise: object = ""
) -> T:
    """Wait until `condition` gives something true, and return it.

    `otherwise` says what to show when it never does: anything, or a function that gives it at that time.
    """
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"never came true: {otherwise() if callable(otherwise) else otherwise}"
        time.sleep(interval)
    return found


async def until(condition: Callable[[], T], seconds: float = SECONDS, *, interval: float = 0.001) -> T:
    """Wait as `wait_until`, and let the event loop turn meanwhile."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(interval)
    return found


def settled(look: Callable[[], T], seconds: float = SECONDS, *, interval: float) -> T:
    """Return what `look` gives once it gives the same twice, `interval` seconds apart."""
    limit = time.monotonic() + seconds
    before = look()
    while True:
        time.sleep(interval)
        if (now := look()) == before:
            return now
        assert time.monotonic() < limit, f"never settled: {now}"
        before = now
