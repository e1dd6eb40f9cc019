"""A worker without a model, made of asyncio's streams: a test sees each block and answers it when it likes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.engine import messages
from service.engine.absent import Absent
from service.engine.messages import Kind
from service.engine.served_models import ServedModel
from tests.waiting import until

SECONDS = 30  # what a test waits for at most


class Received(NamedTuple):
    """A block as it arrived; `images` are the first bytes of its inputs, `connection` counts from 0.

    The handle of one that is to be retried is -1.
    """

    block_id: int
    handle: int
    images: list[int]
    deadline: float
    connection: int


class FakeWorker:
    """Listens at `path`, announces `models` to whoever connects, and answers what it is told to."""

    def __init__(self, path: Path, models: Mapping[int, ServedModel], *, input_bytes: int = 784) -> None:
        self.path = str(path)
        self.models = dict(models)
        self.connections = 0
        self._input_bytes = input_bytes
        self._blocks: asyncio.Queue[Received] = asyncio.Queue()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._server: asyncio.Server

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        self._server.close()
        await self.die()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._writers[number] = writer
        self.announce(self.models)
        cutter = messages.MessageReader()
        try:
            while data := await reader.read(1 << 16):
                for message in cutter.feed(data):
                    is_retry = message.kind == Kind.RETRY
                    unpack = messages.unpack_retry if is_retry else messages.unpack_block
                    block = unpack(message.payload)
                    images = list(bytes(block.data[:: self._input_bytes]))
                    assert len(images) == block.size
                    handle = getattr(block, "handle", -1)
                    received = Received(message.block_id, handle, images, block.deadline, number)
                    self._blocks.put_nowait(received)
        except OSError:
            pass  # the other side is gone
        finally:
            del self._writers[number]
            writer.close()

    async def block(self) -> Received:
        """The next block to arrive."""
        return await asyncio.wait_for(self._blocks.get(), SECONDS)

    async def blocks(self) -> list[Received]:
        """What has arrived, after as long as a dispatcher needs to send what it may."""
        await asyncio.sleep(0.05)
        return [self._blocks.get_nowait() for _ in range(self._blocks.qsize())]

    def announce(self, models: Mapping[int, ServedModel], absent: tuple[Absent, ...] = ()) -> None:
        self.send(messages.pack_models(models, absent))

    def answer(self, block: Received, compute_seconds: float = 2**-8, *, crashed: Collection[int] = ()) -> None:
        """Answer with each image's first byte as its class, or that those `crashed` ended a process."""
        size = len(block.images)
        columns = (
            np.array([messages.CRASHED if image in crashed else image for image in block.images], np.int32).tobytes(),
            np.full(size, 0.5, np.float32).tobytes(),
            np.arange(2 * size, dtype=np.float32).tobytes(),
        )
        self.send(
            messages.pack_answer(
                block.block_id,
                columns,
                classes=2,
                batch_size=size,
                queue_seconds=0.25,
                compute_seconds=compute_seconds,
            )
        )

    def refuse(self, block: Received, reason: str) -> None:
        self.send(messages.pack(Kind.REFUSAL, block.block_id, reason.encode()))

    def send(self, data: bytes) -> None:
        for writer in self._writers.values():
            writer.write(data)

    async def die(self) -> None:
        """Break every connection, as the death of the process would; its listener is the supervisor's and stays."""
        dying = dict(self._writers)
        for writer in dying.values():
            writer.transport.abort()
        await until(lambda: not dying.keys() & self._writers.keys())


@contextlib.asynccontextmanager
async def listening(
    path: Path, models: Mapping[int, ServedModel], *, input_bytes: int = 784
) -> AsyncIterator[FakeWorker]:
    worker = FakeWorker(path, models, input_bytes=input_bytes)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.close()
