"""An HTTP process's connection to one worker: sends blocks, receives answers, comes back when the worker does."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from service.engine import messages
from service.engine.messages import Announced, Answer, Kind

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1


class LinkListener(Protocol):
    """What the owner of a link is told."""

    def models_announced(self, link: WorkerLink, announced: Announced) -> None: ...
    def block_answered(self, link: WorkerLink, block_id: int, answer: Answer) -> None: ...
    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None: ...
    def worker_lost(self, link: WorkerLink) -> None: ...


class WorkerLink(asyncio.Protocol):
    """The stream to the worker behind the Unix socket `path`; `connect` keeps it up until `close`."""

    def __init__(self, path: str, listener: LinkListener) -> None:
        self.path = path
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._reader = messages.FrameReader()
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to connect, and to reconnect after each loss."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def close(self) -> None:
        if self._keeper:
            self._keeper.cancel()
        if self._transport:
            self._transport.abort()

    def send(self, data: bytes) -> None:
        if self._transport:
            self._transport.write(data)

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            try:
                # The supervisor holds the listening socket: while a worker starts, connections wait in its backlog.
                await loop.create_unix_connection(lambda: self, self.path)
            except OSError as error:
                logger.debug("worker at %s does not listen yet: %s", self.path, error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await self._lost.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._reader = messages.FrameReader()

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if frame.kind == Kind.ANSWER:
                self._listener.block_answered(self, frame.block_id, messages.unpack_answer(frame.payload))
            elif frame.kind == Kind.REFUSAL:
                self._listener.block_refused(self, frame.block_id, frame.payload.decode())
            elif frame.kind == Kind.MODELS:
                self._listener.models_announced(self, messages.unpack_models(frame.payload))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._listener.worker_lost(self)
        self._lost.set()
