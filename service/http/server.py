"""The HTTP server: serves an application on listening sockets until told to stop, then finishes what has begun."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from service.http.connection import Application, Connections
from service.http.limits import Limits

_SWEEP_SECONDS = 0.25
_LOOK_SECONDS = 0.02
_BACKLOG = 4096


class HTTPServer:
    """The HTTP server of one process."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self._connections = Connections(application, limits)

    async def run(self, sockets: Sequence[socket.socket], stop: asyncio.Event, *, shutdown_seconds: float) -> None:
        """Serve until `stop` is set, then for at most `shutdown_seconds` until every request that began is answered."""
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(self._connections.make, sock=each, backlog=_BACKLOG) for each in sockets]
        sweeper = loop.create_task(self._sweep())
        try:
            await stop.wait()
            for server in servers:
                server.close()
            self._connections.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(shutdown_seconds):
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
