"""The reception of messages: how many come at a time, and how long one may take. Knows nothing about their content."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from service.problems import BadRequest, RequestTimeout, Unavailable

PLACES = 16
"""So many messages may a process receive and, if they are large, answer at a time; others wait at their clients."""

SMALL_MESSAGE_BYTES = 64 * 1024
"""A message up to this size leaves its place once it is there."""

_HURRIED_SECONDS = 1.0
"""How long a message may take to come while others wait for a place."""


class Reception:
    """The places of one process, each for a message that takes at most `seconds` to come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.room = asyncio.Semaphore(PLACES)
        self.waiting = 0
        """Calls without a place."""
        self.receiving: set[Place] = set()

    def place(self) -> Place:
        """Return a place to be waited for and left again."""
        return Place(self)


class Place:
    """The place of one call, in an `async with` that leaves it."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._is_taken = False
        self._is_hurried = False
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def receive(self, context: Any) -> bytes:  # a grpc.aio.ServicerContext; grpcio ships no types
        """Return the call's message.

        Raises:
            BadRequest: there is none.
            RequestTimeout: it does not come in time.
            Unavailable: no place becomes free in time, or it does not come in the time that there is while others wait.
        """
        await self._take()
        reception = self._reception
        reception.receiving.add(self)
        try:
            async with asyncio.timeout(reception.seconds) as self._limit:
                if reception.waiting:
                    self._hurry()
                message = await context.read()
        except TimeoutError:
            if self._is_hurried:
                raise _no_room() from None
            raise RequestTimeout(f"the message must come within {reception.seconds:g} s. Given: a part of it") from None
        finally:
            reception.receiving.discard(self)
        if not isinstance(message, bytes):
            raise BadRequest("a call must have a message. Given: none")
        if len(message) <= SMALL_MESSAGE_BYTES:
            self._leave()
        return message

    async def _take(self) -> None:
        reception = self._reception
        if reception.room.locked():
            for place in reception.receiving:
                place._hurry()
        reception.waiting += 1
        try:
            async with asyncio.timeout(reception.seconds):
                await reception.room.acquire()
        except TimeoutError:
            raise _no_room() from None
        finally:
            reception.waiting -= 1
        self._is_taken = True

    def _hurry(self) -> None:
        until = asyncio.get_running_loop().time() + _HURRIED_SECONDS
        if not self._is_hurried and until < (self._limit.when() or 0):
            self._is_hurried = True
            self._limit.reschedule(until)

    def _leave(self) -> None:
        if self._is_taken:
            self._is_taken = False
            self._reception.room.release()


def _no_room() -> Unavailable:
    return Unavailable(f"messages being received must be at most {PLACES} at a time. Given: more")
