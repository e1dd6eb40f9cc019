"""Accepts clients on a socket that several processes listen on, so that each holds about as many connections.

Left to the system, a process that happens to be awake takes what comes: 64 connections of one client were all held by
one of two processes in one run of 14, which left the other idle. Envoy calls the remedy connection balancing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import multiprocessing
import socket
from typing import cast

from service.http.connection import Connections

logger = logging.getLogger(__name__)

_FORK = multiprocessing.get_context("fork")

_STEP_ASIDE_SECONDS = 0.001
"""For which a process that is ahead leaves new clients to others. What nobody took by then it takes itself."""

_AT_ONCE = 4
"""Clients that it takes then, before it steps aside again."""

_IN_A_TURN = 16
"""Clients that are taken in one turn of the loop, so that those who are connected need not wait for hundreds more."""

_AT_THE_END = 4096
"""Clients that it takes before it accepts no more, lest those who go on coming keep it from its end."""

_SHORTAGE_SECONDS = 1.0
"""After which a process that has too many open files tries again; asyncio waits as long."""

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Balance:
    """How many connections each of several processes holds. Made before they are forked."""

    def __init__(self, processes: int) -> None:
        self._held = _FORK.RawArray("Q", processes)

    def tell(self, number: int, held: int) -> None:
        """Record how many the process `number` holds."""
        self._held[number] = held

    def is_ahead(self, number: int, held: int) -> bool:
        """Return whether a process that holds `held` should leave the next one to another process."""
        least = min((other for place, other in enumerate(self._held) if place != number), default=held)
        return held > least + 1 + least // 8


class Acceptor:
    """Accepts for the process `number`; `open` begins, in a running loop, and `close` ends it."""

    def __init__(self, listener: socket.socket, connections: Connections, balance: Balance, number: int) -> None:
        self._listener = listener
        self._connections = connections
        self._balance = balance
        self._number = number
        self._opening = 0  # clients that are accepted, and no connection yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._returns: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._balance.tell(self._number, 0)
        self._connections.on_change = self._tell
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept what waits already, which would be cut off else, and close this process's copy of the socket."""
        for _ in range(_AT_THE_END):
            if not self._accept_one():
                break
        if self._returns:
            self._returns.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    @property
    def held(self) -> int:
        """How many clients this process holds."""
        return len(self._connections) + self._opening

    def _tell(self) -> None:
        self._balance.tell(self._number, self.held)

    def _accept(self) -> None:
        """Accept what waits, until it is another process's turn or the others' here."""
        for _ in range(_IN_A_TURN):
            if self._balance.is_ahead(self._number, self.held):
                self._rest(_STEP_ASIDE_SECONDS)
                return
            if not self._accept_one():
                return

    def _return(self) -> None:
        """Take what the others left, because they are busy or stand still."""
        self._returns = None
        for _ in range(_AT_ONCE):
            if not self._accept_one():
                break
        if self._returns is None:
            self._loop.add_reader(self._listener, self._accept)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._returns = self._loop.call_later(seconds, self._return)

    def _accept_one(self) -> bool:
        """Accept a client; False if none waits."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process was faster, or the client left
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            logger.error("no client can be accepted for %g s: %s", _SHORTAGE_SECONDS, error)
            self._rest(_SHORTAGE_SECONDS)
            return False
        self._opening += 1
        self._tell()
        task = self._loop.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, client)
        except OSError as error:  # it has left
            logger.debug("a client could not be served: %s", error)
            client.close()

    def _make(self) -> asyncio.Protocol:
        self._opening -= 1
        return cast("asyncio.Protocol", self._connections.make())
