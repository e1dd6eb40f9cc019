"""The order in which waiting inputs leave an HTTP process: fair between models and requests, urgent ones first.

A queue holds what waits for one model at one priority. Queues take turns by the block, and requests inside a queue by
the chunk, so that neither a flood for one model nor one request of a thousand images keeps a single image waiting.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from service.engine.admission import Backlog
from service.engine.messages import BlockAnswer
from service.engine.served_models import Key


class Part:
    """The share of one chunk in a block's answer: images `start` to `start + size`."""

    __slots__ = ("answer", "size", "start")

    def __init__(self, answer: BlockAnswer, start: int, size: int) -> None:
        self.answer = answer
        self.start = start
        self.size = size

    @property
    def places(self) -> slice:
        """Those of its images in the block."""
        return slice(self.start, self.start + self.size)


class Client(Protocol):
    """The client that waits for an answer."""

    @property
    def disconnected(self) -> bool: ...


class Receiver(Protocol):
    """Who is told, once, what becomes of a chunk; a future is one. Must not raise."""

    def done(self) -> bool:
        """Return whether it was told, or does not want to know any more."""
        ...

    def set_result(self, part: Part, /) -> None: ...
    def set_exception(self, error: Exception, /) -> None: ...


class Chunk:
    """Inputs of one request that travel in one block; `next` is the chunk that follows."""

    __slots__ = (
        "attempts",
        "backlog",
        "client",
        "data",
        "deadline",
        "is_last",
        "next",
        "receiver",
        "size",
        "submitted",
    )

    def __init__(
        self,
        data: bytes,
        size: int,
        deadline: float,
        client: Client,
        receiver: Receiver,
        backlog: Backlog,
    ) -> None:
        self.submitted = time.monotonic()
        self.data = data
        self.size = size
        self.deadline = deadline
        self.client = client
        self.receiver = receiver
        self.backlog = backlog
        self.next: Chunk | None = None
        self.is_last = True  # of its request
        self.attempts = 0


class Queue:
    """The inputs that wait for the model `key`; those of `bulk` requests yield to others."""

    def __init__(self, key: Key, *, bulk: bool) -> None:
        self.key = key
        self.bulk = bulk
        self._chunks: collections.deque[Chunk] = collections.deque()
        self.size = 0
        """Inputs that could leave now, without the chunks that follow them."""

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self.size += chunk.size

    def put_back(self, chunk: Chunk) -> None:
        """Return a chunk that had left to the head of the queue."""
        self._chunks.appendleft(chunk)
        self.size += chunk.size

    def chunks(self) -> Iterator[Chunk]:
        """Yield every chunk that waits, with those that follow it."""
        for chunk in self._chunks:
            following: Chunk | None = chunk
            while following:
                yield following
                following = following.next

    def take(self, max_size: int, is_wanted: Callable[[Chunk], bool]) -> list[Chunk]:
        """Remove and return the next chunks, of at most `max_size` inputs, without those that nobody waits for."""
        chunks = self._chunks
        taken: list[Chunk] = []
        while chunks and max_size >= chunks[0].size:
            chunk = chunks.popleft()
            self.size -= chunk.size
            if chunk.next:
                self.add(chunk.next)
                chunk.next = None
            if is_wanted(chunk):
                taken.append(chunk)
                max_size -= chunk.size
        return taken

    def keep(self, is_wanted: Callable[[Chunk], bool]) -> None:
        """Drop the chunks that nobody waits for."""
        self._chunks = collections.deque(filter(is_wanted, self._chunks))
        self.size = sum(chunk.size for chunk in self._chunks)


class Queues:
    """The queues of one HTTP process that are not empty, the one whose turn it is first."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Key, bool], Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def queue(self, key: Key, *, bulk: bool) -> Queue:
        """Return the queue of a model and priority, new if there is none."""
        queue = self._queues.get((key, bulk))
        if queue is None:
            queue = self._queues[key, bulk] = Queue(key, bulk=bulk)
        return queue

    def in_turn(self) -> list[Queue]:
        """Return the queues in the order in which they may send a block: urgent ones first, then who waited longest."""
        urgent = [queue for queue in self._queues.values() if not queue.bulk]
        return urgent + [queue for queue in self._queues.values() if queue.bulk]

    def had_turn(self, queue: Queue) -> None:
        """Put a queue that sent a block behind the others, or drop it if it is empty."""
        place = (queue.key, queue.bulk)
        del self._queues[place]
        if queue:
            self._queues[place] = queue

    def keep(self, is_wanted: Callable[[Chunk], bool]) -> None:
        """Drop the chunks that nobody waits for, in every queue."""
        for place, queue in list(self._queues.items()):
            queue.keep(is_wanted)
            if not queue:
                del self._queues[place]

    def remove(self, is_void: Callable[[Key], bool]) -> list[Chunk]:
        """Remove the queues of some models and return the chunks that waited in them."""
        void = [place for place in self._queues if is_void(place[0])]
        return [chunk for place in void for chunk in self._queues.pop(place).chunks()]
