"""An HTTP process's connection to one worker: sends blocks, receives answers, reconnects after a loss."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from service.engine import messages
from service.engine.absent import Absent
from service.engine.messages import BlockAnswer, Kind
from service.engine.served_models import ServedModel

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1


class LinkListener(Protocol):
    """The owner of a link, which is told what happens on it."""

    def models_announced(
        self, link: WorkerLink, models: dict[int, ServedModel], absent: tuple[Absent, ...]
    ) -> None: ...
    def block_answered(self, link: WorkerLink, block_id: int, answer: BlockAnswer) -> None: ...
    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None: ...
    def worker_leaving(self, link: WorkerLink) -> None: ...
    def worker_lost(self, link: WorkerLink) -> None: ...


class WorkerLink(asyncio.Protocol):
    """The stream to the worker behind the Unix socket `path`; `open` keeps it connected until `close`."""

    def __init__(self, path: str, listener: LinkListener) -> None:
        self.path = path
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._reader = messages.MessageReader()
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
        while True:
            self._lost.clear()
            if await self._connect():
                await self._lost.wait()
            else:
                # Not where the error is handled: what is awaited there is compiled so that it reaches other tasks.
                await asyncio.sleep(_RETRY_SECONDS)

    async def _connect(self) -> bool:
        try:
            # The supervisor holds the listening socket: while a worker starts, connections wait in its backlog.
            await asyncio.get_running_loop().create_unix_connection(lambda: self, self.path)
        except OSError as error:
            logger.debug("worker at %s does not listen yet: %s", self.path, error)
            return False
        return True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._reader = messages.MessageReader()

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if message.kind == Kind.ANSWER:
                self._listener.block_answered(self, message.block_id, messages.unpack_answer(message.payload))
            elif message.kind == Kind.REFUSAL:
                self._listener.block_refused(self, message.block_id, message.payload.decode())
            elif message.kind == Kind.MODELS:
                self._listener.models_announced(self, *messages.unpack_models(message.payload))
            elif message.kind == Kind.GOODBYE:
                self._listener.worker_leaving(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._listener.worker_lost(self)
        self._lost.set()
