"""The HTTP server: serves an application on a listening socket until told to stop, then finishes what has begun."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from service.http.acceptor import Acceptor, Balance
from service.http.connection import Application, Connections
from service.http.limits import Limits

_SWEEP_SECONDS = 0.25
_LOOK_SECONDS = 0.02

_LAST_SECONDS = 0.1
"""For which clients that hold a connection may still send a request once the server stops. Its answer says that it is
the last. Of 64 clients that connected for each request, 25 to 36 lost theirs when idle connections were cut off."""


class HTTPServer:
    """The HTTP server of one process, the one that `balance` knows as `number`."""

    def __init__(self, application: Application, limits: Limits, balance: Balance, number: int) -> None:
        self._connections = Connections(application, limits)
        self._balance = balance
        self._number = number

    async def run(self, listener: socket.socket, stop: asyncio.Event, *, shutdown_seconds: float) -> None:
        """Serve until `stop` is set, then for at most `shutdown_seconds` until every request that began is answered.

        A client that is connected already may still begin one for a moment.
        """
        acceptor = Acceptor(listener, self._connections, self._balance, self._number)
        acceptor.open()
        sweeper = asyncio.create_task(self._sweep())
        try:
            await stop.wait()
            acceptor.close()
            self._connections.is_closing = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(shutdown_seconds):
                    if acceptor.held:
                        await asyncio.sleep(_LAST_SECONDS)
                    self._connections.close_idle()
                    while self._connections:
                        await asyncio.sleep(_LOOK_SECONDS)
        finally:
            sweeper.cancel()
            self._connections.abort()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._connections.sweep(loop.time())
