"""Acceptors over real sockets. Two of one event loop stand for those of two processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from service.http import acceptor
from service.http.acceptor import Acceptor, Balance
from service.http.connection import Connections
from service.http.limits import Limits
from tests.service.http.test_connection import Echo
from tests.waiting import until

LIMITS = Limits(max_body_bytes=1000, max_bodies_bytes=10_000)


class Listening:
    """Some processes' connections, and the clients that have come."""

    def __init__(self, listener: socket.socket, processes: int) -> None:
        self.listener = listener
        self.balance = Balance(processes)
        self.held: list[Connections] = []
        self.acceptors: list[Acceptor] = []
        self.clients: list[socket.socket] = []

    def begin(self, number: int) -> None:
        """Let the process `number`, the next one, listen."""
        connections = Connections(Echo(), LIMITS)
        accepting = Acceptor(self.listener.dup(), connections, self.balance, number)
        self.held.append(connections)
        self.acceptors.append(accepting)
        accepting.open()

    async def come(self, clients: int) -> None:
        """Let so many clients connect at once, and wait until somebody serves them."""
        self.clients += [socket.create_connection(self.listener.getsockname()) for _ in range(clients)]
        await until(lambda: sum(map(len, self.held)) == len(self.clients))

    def leave(self, clients: int) -> None:
        for client in self.clients[:clients]:
            client.close()
        del self.clients[:clients]


@contextlib.asynccontextmanager
async def listening(processes: int, *, of: int | None = None) -> AsyncIterator[Listening]:
    """Let `processes` listen, of which the others say that there are `of`."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        found = Listening(listener, of or processes)
        for number in range(processes):
            found.begin(number)
        try:
            yield found
        finally:
            for accepting in found.acceptors:
                accepting.close()
            found.leave(len(found.clients))
            await until(lambda: not any(found.held))


@pytest.mark.parametrize("new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_clients_that_come_at_once_are_shared_by_the_processes(
    new_event_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> list[int]:
        async with listening(2) as found:
            await found.come(64)
            return [len(connections) for connections in found.held]

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert max(runner.run(scenario())) <= 40  # as even as those can tell who looked a moment ago


def test_a_process_that_starts_later_gets_the_clients_that_come_from_then_on() -> None:
    async def scenario() -> list[int]:
        async with listening(1, of=2) as found:
            await found.come(20)
            found.begin(1)
            await found.come(20)
            return [len(connections) for connections in found.held]

    held = uvloop.run(scenario())

    assert held[1] >= 16


def test_those_that_left_are_counted_no_more() -> None:
    async def scenario() -> list[int]:
        async with listening(2) as found:
            await found.come(40)
            found.leave(40)
            await until(lambda: not any(found.held))
            await found.come(20)
            return [len(connections) for connections in found.held]

    assert max(uvloop.run(scenario())) <= 13


def test_clients_are_served_while_another_process_stands_still() -> None:
    async def scenario() -> int:
        async with listening(1, of=2) as found:  # the other one never accepts
            await found.come(100)
            return len(found.held[0])

    assert uvloop.run(scenario()) == 100


def test_a_crowd_of_new_clients_leaves_turns_to_those_who_are_connected() -> None:
    async def scenario() -> list[int]:
        async with listening(1) as found:
            found.clients = [socket.create_connection(found.listener.getsockname()) for _ in range(100)]
            held = [0]
            while held[-1] < len(found.clients):
                await asyncio.sleep(0)  # a turn of the loop
                held.append(found.acceptors[0].held)
            return [after - before for before, after in itertools.pairwise(held)]

    assert max(asyncio.run(scenario())) <= 16


def test_a_process_alone_takes_all() -> None:
    balance = Balance(1)

    assert not balance.is_ahead(0, 1000)


@pytest.mark.parametrize(("held", "other", "is_ahead"), [(1, 0, False), (2, 0, True), (37, 32, False), (38, 32, True)])
def test_a_process_is_ahead_when_it_holds_more_than_chance_explains(held: int, other: int, is_ahead: bool) -> None:
    balance = Balance(2)
    balance.tell(1, other)

    assert balance.is_ahead(0, held) is is_ahead


class Exhausted(socket.socket):
    """A listening socket of a process with too many open files, for the first `failures` times."""

    failures = 2

    def dup(self) -> Exhausted:
        return self

    def accept(self):  # type: ignore[no-untyped-def]
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_with_too_many_open_files_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "_SHORTAGE_SECONDS", 0.05)

    async def scenario() -> int:
        async with listening(0, of=1) as found:
            found.listener = Exhausted(fileno=found.listener.detach())
            found.begin(0)
            await found.come(3)
            return len(found.held[0])

    with caplog.at_level(logging.ERROR):
        assert uvloop.run(scenario()) == 3
    assert caplog.messages == ["no client can be accepted for 0.05 s: [Errno 24] Too many open files"] * 2
