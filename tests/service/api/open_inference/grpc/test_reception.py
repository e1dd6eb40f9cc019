"""The reception of messages, with contexts that have one or wait for it, and no gRPC."""

from __future__ import annotations

import asyncio

import pytest

from service.api.open_inference.grpc import reception
from service.api.open_inference.grpc.reception import PLACES, SMALL_MESSAGE_BYTES, Reception
from service.problems import BadRequest, RequestTimeout, Unavailable

LARGE = bytes(SMALL_MESSAGE_BYTES + 1)


class Context:
    """A call whose message is there, or never comes."""

    def __init__(self, message: object = None) -> None:
        self._message = message
        self.was_read = False

    async def read(self) -> object:
        self.was_read = True
        return await asyncio.Event().wait() if self._message is None else self._message


async def call(receiving: Reception, context: Context, until: asyncio.Event | None = None) -> bytes:
    """Receive a message, and answer it once `until` is set."""
    async with receiving.place() as place:
        message = await place.receive(context)
        if until:
            await until.wait()
        return message


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_large_messages_wait_until_others_are_answered() -> None:
    async def run() -> None:
        receiving, until = Reception(60), asyncio.Event()
        contexts = [Context(LARGE) for _ in range(PLACES + 2)]
        calls = [asyncio.create_task(call(receiving, context, until)) for context in contexts]
        await settle()
        assert [context.was_read for context in contexts] == [True] * PLACES + [False] * 2

        until.set()

        assert await asyncio.gather(*calls) == [LARGE] * (PLACES + 2)

    asyncio.run(run())


def test_small_messages_leave_their_places_before_they_are_answered() -> None:
    async def run() -> None:
        receiving, until = Reception(60), asyncio.Event()
        contexts = [Context(b"small") for _ in range(3 * PLACES)]
        calls = [asyncio.create_task(call(receiving, context, until)) for context in contexts]
        await settle()

        assert all(context.was_read for context in contexts)
        until.set()
        await asyncio.gather(*calls)

    asyncio.run(run())


def test_a_message_that_does_not_come_in_time_is_refused() -> None:
    with pytest.raises(RequestTimeout, match=r"within 0\.01 s\. Given: a part of it"):
        asyncio.run(call(Reception(0.01), Context()))


def test_a_call_that_ends_without_a_message_is_refused() -> None:
    with pytest.raises(BadRequest, match="Given: none"):
        asyncio.run(call(Reception(60), Context(object())))


def test_who_sends_nothing_makes_room_for_who_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "_HURRIED_SECONDS", 0.01)

    async def run() -> None:
        receiving = Reception(60)
        idle = [asyncio.create_task(call(receiving, Context())) for _ in range(3 * PLACES)]
        await settle()

        assert await call(receiving, Context(b"here")) == b"here"

        refused = await asyncio.gather(*idle[: 2 * PLACES], return_exceptions=True)
        assert {type(one) for one in refused} == {Unavailable}
        assert str(refused[0]) == f"messages being received must be at most {PLACES} at a time. Given: more"
        for one in idle:
            one.cancel()

    asyncio.run(run())


def test_who_finds_no_place_in_time_is_told_so_and_who_leaves_frees_none() -> None:
    async def run() -> None:
        receiving = Reception(0.05)
        until = asyncio.Event()
        holders = [asyncio.create_task(call(receiving, Context(LARGE), until)) for _ in range(PLACES)]
        await settle()
        leaving = asyncio.create_task(call(receiving, Context(LARGE)))
        await settle()
        leaving.cancel()

        with pytest.raises(Unavailable, match=r"at a time\. Given: more"):
            await call(receiving, Context(b"small"))
        holders[0].cancel()
        assert await call(receiving, Context(b"small")) == b"small"

        until.set()
        await asyncio.gather(*holders, return_exceptions=True)

    asyncio.run(run())
