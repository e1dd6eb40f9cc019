"""The messages between an HTTP process and a worker, over one Unix stream socket for each pair.

    BLOCK    HTTP -> worker   images (or features) of one model that travel and are answered together
    ANSWER   worker -> HTTP   class, confidence and logits for each image of a block
    REFUSAL  worker -> HTTP   a block that cannot be computed at all, with the reason
    MODELS   worker -> HTTP   what the worker serves and what not; sent on connecting and after each change

A frame is a header (payload size, kind, block id) and a payload. No pickle: the layouts below are everything.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from service.contract.manifest import ModelManifest
from service.contract.variants import Form

_HEADER = struct.Struct("<IIQ")
_BLOCK = struct.Struct("<IId")
_ANSWER = struct.Struct("<IIIff")


class Kind(enum.IntEnum):
    BLOCK = 1
    ANSWER = 2
    REFUSAL = 3
    MODELS = 4


class Frame(NamedTuple):
    kind: int
    block_id: int
    payload: bytes


class Block(NamedTuple):
    """`size` inputs of the model that the worker announced as `handle`, back to back in `data`."""

    handle: int
    size: int
    deadline: float  # on time.monotonic()'s clock: after it nobody waits for any of these
    data: memoryview


class Answer(NamedTuple):
    """What a worker says of a block; the arrays run parallel to its images.

    A class id of -1 marks an image that made the model fail.
    """

    class_ids: list[int]
    confidences: list[float]
    logits: memoryview[float]  # float32 [n, classes], row-major
    classes: int
    batch_size: int  # images that were computed together, of this block and of others
    queue_seconds: float
    compute_seconds: float


class Announcement(BaseModel):
    """One model version that a worker serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    handle: int
    default: bool  # what a request gets that names the model but no version
    aliases: tuple[str, ...]
    manifest: ModelManifest
    form: Form = Form()


class Absent(BaseModel):
    """A version that is in the registry and that the worker does not serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    state: Literal["loading", "refused"]
    reason: str = ""


class Announced(BaseModel):
    """All that a worker says of versions at one time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Announcement, ...] = ()
    absent: tuple[Absent, ...] = ()


def pack(kind: Kind, block_id: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), kind, block_id) + payload


def pack_block(block_id: int, handle: int, size: int, deadline: float, chunks: list[bytes]) -> bytes:
    data = b"".join(chunks)
    return _HEADER.pack(_BLOCK.size + len(data), Kind.BLOCK, block_id) + _BLOCK.pack(handle, size, deadline) + data


def unpack_block(payload: bytes) -> Block:
    handle, size, deadline = _BLOCK.unpack_from(payload)
    return Block(handle, size, deadline, memoryview(payload)[_BLOCK.size :])


def pack_answer(
    block_id: int,
    columns: tuple[bytes, bytes, bytes],
    *,
    classes: int,
    batch_size: int,
    queue_seconds: float,
    compute_seconds: float,
) -> bytes:
    """An ANSWER frame; `columns` are int32 [n] class ids, float32 [n] confidences and float32 [n, classes] logits."""
    head = _ANSWER.pack(len(columns[0]) // 4, classes, batch_size, queue_seconds, compute_seconds)
    return pack(Kind.ANSWER, block_id, b"".join((head, *columns)))


def unpack_answer(payload: bytes) -> Answer:
    size, classes, batch_size, queue_seconds, compute_seconds = _ANSWER.unpack_from(payload)
    body = memoryview(payload)[_ANSWER.size :]
    return Answer(
        list(body[: 4 * size].cast("i")),
        list(body[4 * size : 8 * size].cast("f")),
        body[8 * size :].cast("f"),
        classes,
        batch_size,
        queue_seconds,
        compute_seconds,
    )


def pack_models(announced: Announced) -> bytes:
    return pack(Kind.MODELS, 0, announced.model_dump_json().encode())


def unpack_models(payload: bytes) -> Announced:
    return Announced.model_validate_json(payload)


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what arrived and give the frames that are whole by now."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            size, kind, block_id = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + size
            if len(buffer) < end:
                break
            yield Frame(kind, block_id, bytes(buffer[start + _HEADER.size : end]))
            start = end
        del buffer[:start]
