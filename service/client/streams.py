"""Many pieces of work, a few at a time. Knows nothing about what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def map_concurrently(
    work: Callable[[T], Coroutine[Any, Any, R]],
    take: Callable[[], Awaitable[T | None]],
    *,
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[R, None]:
    """Yield the result of `work` for each item that `take` gives until None, at most `concurrency` at a time.

    `ordered` gives the results in the order of the things, else they come as they are there. A failure ends it.
    """
    running: list[asyncio.Task[R]] = []  # oldest first
    more = True
    try:
        while True:
            while more and len(running) < concurrency:
                thing = await take()
                if thing is None:
                    more = False
                else:
                    running.append(asyncio.create_task(work(thing)))
            if not running:
                return
            await asyncio.wait(running[:1] if ordered else running, return_when=asyncio.FIRST_COMPLETED)
            for task in [running[0]] if ordered else [task for task in running if task.done()]:
                running.remove(task)
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
