"""The turns that requests of many images take, so that none holds the event loop for long."""

from __future__ import annotations

import asyncio
import collections


class Turns:
    """The turns of requests that hold the event loop: one each time it goes round, who came first having the first."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def take(self) -> None:
        """Wait for the caller's turn, which ends when it awaits something."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        self._waiting.append(loop.create_future())
        await self._waiting[-1]

    def _next(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False
