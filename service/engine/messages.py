"""The messages between an HTTP process and a worker, over one Unix stream socket for each pair.

    BLOCK    HTTP -> worker   images (or features) of one model, which are answered together
    ANSWER   worker -> HTTP   class, confidence, logits and, from some models, outlier score for each image of a block
    REFUSAL  worker -> HTTP   a block that cannot be computed at all, with the reason
    MODELS   worker -> HTTP   which versions the worker serves and which not; sent on connecting and after each change
    GOODBYE  worker -> HTTP   the worker ends of its own accord: no block that it still holds did that
    RETRY    HTTP -> retrier  a block that a dead worker held, with its model's manifest; answered as a block is

A message is a header (payload size, kind, block id) and a payload. No pickle: the layouts below are everything.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from service.contract.manifest import ModelManifest
from service.contract.variants import Form
from service.engine.absent import Absent
from service.engine.served_models import ServedModel

_HEADER = struct.Struct("<IIQ")
_BLOCK = struct.Struct("<IId")
_ANSWER = struct.Struct("<IIIff")
_RETRY = struct.Struct("<IId")

FAILED, CRASHED = -1, -2
"""The class ids of an image on which the model fails, and of one on which it ends its process."""


class Kind(enum.IntEnum):
    BLOCK = 1
    ANSWER = 2
    REFUSAL = 3
    MODELS = 4
    GOODBYE = 5
    RETRY = 6


class Message(NamedTuple):
    kind: int
    block_id: int
    payload: bytes


class Block(NamedTuple):
    """`size` inputs of the model that the worker calls `handle`, back to back in `data`."""

    handle: int
    size: int
    deadline: float  # on time.monotonic()'s clock: after it nobody waits for any of these
    data: memoryview


class Retry(NamedTuple):
    """`size` inputs, back to back in `data`, of the version that `manifest`, JSON, describes."""

    manifest: bytes
    size: int
    deadline: float
    data: memoryview


class BlockAnswer(NamedTuple):
    """A worker's answer to a block; the arrays run parallel to its images.

    A class id of FAILED or CRASHED marks an image that the model cannot compute.
    """

    class_ids: list[int]
    confidences: list[float]
    logits: memoryview[float]  # float32 [n, classes], row-major
    classes: int
    batch_size: int  # images that were computed together, of this block and of others
    queue_seconds: float
    compute_seconds: float
    scores: Sequence[float] = ()  # how foreign each image is; none from a model that does not say


def pack(kind: Kind, block_id: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), kind, block_id) + payload


def pack_block(block_id: int, handle: int, size: int, deadline: float, chunks: list[bytes]) -> bytes:
    length = _BLOCK.size + sum(map(len, chunks))
    return b"".join((_HEADER.pack(length, Kind.BLOCK, block_id), _BLOCK.pack(handle, size, deadline), *chunks))


def unpack_block(payload: bytes) -> Block:
    handle, size, deadline = _BLOCK.unpack_from(payload)
    return Block(handle, size, deadline, memoryview(payload)[_BLOCK.size :])


def pack_retry(block_id: int, manifest: bytes, size: int, deadline: float, chunks: list[bytes]) -> bytes:
    payload = b"".join((_RETRY.pack(len(manifest), size, deadline), manifest, *chunks))
    return pack(Kind.RETRY, block_id, payload)


def unpack_retry(payload: bytes) -> Retry:
    length, size, deadline = _RETRY.unpack_from(payload)
    start = _RETRY.size + length
    return Retry(payload[_RETRY.size : start], size, deadline, memoryview(payload)[start:])


def pack_answer(
    block_id: int,
    columns: tuple[bytes, ...],
    *,
    classes: int,
    batch_size: int,
    queue_seconds: float,
    compute_seconds: float,
) -> bytes:
    """Pack an answer.

    `columns` are int32 [n] class ids, float32 [n] confidences, float32 [n, classes] logits, and float32 [n] scores or
    nothing.
    """
    head = _ANSWER.pack(len(columns[0]) // 4, classes, batch_size, queue_seconds, compute_seconds)
    return pack(Kind.ANSWER, block_id, b"".join((head, *columns)))


def unpack_answer(payload: bytes) -> BlockAnswer:
    size, classes, batch_size, queue_seconds, compute_seconds = _ANSWER.unpack_from(payload)
    body = memoryview(payload)[_ANSWER.size :]
    scores_at = 4 * size * (2 + classes)
    return BlockAnswer(
        list(body[: 4 * size].cast("i")),
        list(body[4 * size : 8 * size].cast("f")),
        body[8 * size : scores_at].cast("f"),
        classes,
        batch_size,
        queue_seconds,
        compute_seconds,
        list(body[scores_at:].cast("f")),
    )


def pack_models(models: Mapping[int, ServedModel], absent: Iterable[Absent]) -> bytes:
    """Pack what a worker serves, each model by the handle that blocks name it by, and what it does not serve."""
    listed = [
        {
            "handle": handle,
            "default": model.default,
            "aliases": model.aliases,
            "manifest": model.manifest.model_dump(mode="json"),
            "form": model.form.model_dump(mode="json"),
        }
        for handle, model in models.items()
    ]
    document = {"models": listed, "absent": [version.model_dump(mode="json") for version in absent]}
    return pack(Kind.MODELS, 0, orjson.dumps(document))


def unpack_models(payload: bytes) -> tuple[dict[int, ServedModel], tuple[Absent, ...]]:
    """Unpack what `pack_models` packed."""
    document = orjson.loads(payload)
    models = {
        entry["handle"]: ServedModel(
            ModelManifest.model_validate(entry["manifest"]),
            default=entry["default"],
            aliases=tuple(entry["aliases"]),
            form=Form.model_validate(entry["form"]),
        )
        for entry in document["models"]
    }
    return models, tuple(map(Absent.model_validate, document["absent"]))


class MessageReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what arrived and yield the messages that are complete."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            size, kind, block_id = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + size
            if len(buffer) < end:
                break
            yield Message(kind, block_id, bytes(buffer[start + _HEADER.size : end]))
            start = end
        del buffer[:start]
