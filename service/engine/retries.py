"""The blocks that dead workers held, which one HTTP process has computed again by the retrier, image by image.

One of their images may be what killed the worker; in the retrier it ends a process of its own, and fails alone. An
image that did so once never goes to a worker again. Knows nothing about queues.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from service.engine import messages
from service.engine.absent import Absent
from service.engine.messages import CRASHED, BlockAnswer
from service.engine.queues import Chunk, Queue
from service.engine.served_models import Key, ServedModel
from service.engine.worker_link import WorkerLink

logger = logging.getLogger(__name__)

_MOST_CULPRITS = 1000
"""Of each version, that are remembered."""


class SentBlock(NamedTuple):
    """Inputs that left together, at the time `sent`."""

    model: ServedModel
    queue: Queue
    chunks: list[Chunk]
    size: int  # of inputs
    sent: float


class Owner(Protocol):
    """The owner of blocks, which is told how each fared."""

    def block_retried(self, block: SentBlock, answer: BlockAnswer) -> None: ...
    def block_not_retried(self, block: SentBlock) -> None: ...


class Retries:
    """The link to the retrier behind the Unix socket `path`, and the blocks that it holds."""

    def __init__(self, path: str, owner: Owner) -> None:
        self.link = WorkerLink(path, self)
        self.blocks: dict[int, SentBlock] = {}
        self.has_culprits = False
        self._owner = owner
        self._connected = False
        self._ids = itertools.count(1)
        self._culprits: dict[Key, collections.deque[bytes]] = {}

    def take(self, block: SentBlock) -> bool:
        """Have a block computed again; False if nobody is there to do it."""
        if not self._connected:
            return False
        block_id = next(self._ids)
        self.blocks[block_id] = block
        manifest = block.model.manifest.model_dump_json().encode()
        deadline = max(chunk.deadline for chunk in block.chunks)
        self.link.send(
            messages.pack_retry(block_id, manifest, block.size, deadline, [chunk.data for chunk in block.chunks])
        )
        return True

    def is_suspect(self, model: ServedModel, chunk: Chunk) -> bool:
        """Return whether an image in the chunk has ended a process before."""
        known = self._culprits.get(model.key)
        return known is not None and any(_digest(image) in known for image in _images(model, chunk))

    # LinkListener

    def models_announced(self, link: WorkerLink, models: dict[int, ServedModel], absent: tuple[Absent, ...]) -> None:
        del link, models, absent
        self._connected = True

    def block_answered(self, link: WorkerLink, block_id: int, answer: BlockAnswer) -> None:
        del link
        block = self.blocks.pop(block_id)
        if CRASHED in answer.class_ids:
            self._remember(block, answer)
        self._owner.block_retried(block, answer)

    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None:
        del link
        block = self.blocks.pop(block_id)
        logger.warning("a block for %s could not be retried: %s", block.model.name, reason)
        self._owner.block_not_retried(block)

    def worker_leaving(self, link: WorkerLink) -> None:
        """Do nothing: a retrier does not announce its end."""

    def worker_lost(self, link: WorkerLink) -> None:
        del link
        self._connected = False
        blocks, self.blocks = self.blocks, {}
        for block in reversed(blocks.values()):
            self._owner.block_not_retried(block)

    def _remember(self, block: SentBlock, answer: BlockAnswer) -> None:
        known = self._culprits.setdefault(block.model.key, collections.deque(maxlen=_MOST_CULPRITS))
        images = itertools.chain.from_iterable(_images(block.model, chunk) for chunk in block.chunks)
        for image, class_id in zip(images, answer.class_ids, strict=True):
            if class_id == CRASHED and (digest := _digest(image)) not in known:
                known.append(digest)
        self.has_culprits = True


def _images(model: ServedModel, chunk: Chunk) -> Iterator[bytes]:
    return (chunk.data[i : i + model.input_bytes] for i in range(0, len(chunk.data), model.input_bytes))


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()
