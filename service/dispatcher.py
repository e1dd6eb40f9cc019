"""Coalesces what waits in one HTTP process into blocks and sends them to the workers.

Whatever is waiting when a worker has room leaves together, as one block, without a timer. A block whose worker dies
goes back to the head of its queue. Knows nothing about HTTP or images: inputs are bytes of the model's exact size.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from service import frames
from service.errors import DeadlineExceeded, ModelFailed, NotFound, QueueFull, Unavailable
from service.frames import Announcement, Answer
from service.link import WorkerLink
from service.manifest import ModelManifest, input_bytes

BLOCKS_IN_FLIGHT = 2
"""Blocks that a worker may hold of one HTTP process: one that it computes, one that it finds when it is done."""

MAX_ATTEMPTS = 3
"""Workers that may die with a block before it is given up: it may be what kills them."""

_SWEEP_SECONDS = 0.1


class ServedModel:
    """A model version as the HTTP side knows it."""

    def __init__(self, announcement: Announcement) -> None:
        self.manifest: ModelManifest = announcement.manifest
        self.name = self.manifest.name
        self.version = self.manifest.version
        self.classes = self.manifest.classes
        self.input_bytes = input_bytes(self.manifest.input)
        self.default = announcement.default
        self.aliases = announcement.aliases

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.version


class Part(NamedTuple):
    """One ticket's share of a block's answer: images `start` to `start + size`."""

    answer: Answer
    start: int
    size: int


class _Ticket:
    """Inputs of one request that travel together."""

    __slots__ = ("attempts", "data", "deadline", "future", "key", "size")

    def __init__(
        self, key: tuple[str, int], data: bytes, size: int, deadline: float, future: asyncio.Future[Part]
    ) -> None:
        self.key = key
        self.data = data
        self.size = size
        self.deadline = deadline
        self.future = future
        self.attempts = 0


class _Worker:
    """A link, what its worker serves, and what it holds of ours."""

    def __init__(self) -> None:
        self.connected = False
        self.models: dict[tuple[str, int], ServedModel] = {}
        self.handles: dict[tuple[str, int], int] = {}
        self.blocks: dict[int, list[_Ticket]] = {}

    def has_room_for(self, key: tuple[str, int]) -> bool:
        return self.connected and len(self.blocks) < BLOCKS_IN_FLIGHT and key in self.handles


class Dispatcher:
    """The queue of one HTTP process. All of it runs on the event loop's thread."""

    def __init__(
        self,
        paths: list[str],
        *,
        default_model: str,
        max_batch_size: int,
        max_queue: int,
        on_answer: Callable[[ServedModel, Answer], None] = lambda _model, _answer: None,
    ) -> None:
        self._default_model = default_model
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._on_answer = on_answer
        self._workers = {WorkerLink(path, self): _Worker() for path in paths}
        self._queues: dict[tuple[str, int], collections.deque[_Ticket]] = {}
        self._tickets: set[_Ticket] = set()
        self._block_ids = itertools.count(1)
        self._flush_is_due = False
        self._models: list[ServedModel] = []
        self._resolved: dict[tuple[str | None, str | None], ServedModel] = {}
        self._answered = 0
        self._answered_per_second = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self.depth = 0
        """Images that were accepted and are not answered."""

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep())
        for link in self._workers:
            link.open()

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        for link in self._workers:
            await link.close()

    # What can be asked for

    def models(self) -> list[ServedModel]:
        """Every version that some worker serves, or served when it was last heard of, by name and number."""
        return self._models

    def is_ready(self, model: ServedModel) -> bool:
        return any(worker.connected and model.key in worker.handles for worker in self._workers.values())

    def resolve(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The model that a request means, which names a model and a version (or alias), or leaves either out.

        Raises:
            NotFound: nothing by that name, version or alias is served.
            Unavailable: no worker has said yet what it serves.
        """
        found = self._resolved.get((name, version))
        if found is None:
            found = self._resolved[name, version] = self._look_up(name, version)
        return found

    def _look_up(self, name: str | None, version: str | None) -> ServedModel:
        if not self._models:
            raise Unavailable("the service must have loaded its models. Given: it is still starting")
        names = sorted({model.name for model in self._models})
        if name is None:
            name = names[0] if len(names) == 1 else self._default_model
        candidates = [model for model in self._models if model.name == name]
        if not candidates:
            raise NotFound(f"model must be one of {names}. Given: {name!r}")
        for model in candidates:
            if model.default if version is None else version in (str(model.version), *model.aliases):
                return model
        known = [str(model.version) for model in candidates] + [a for model in candidates for a in model.aliases]
        raise NotFound(f"version of {name} must be one of {known}. Given: {version!r}")

    # What is asked

    def admit(self, images: int = 1) -> None:
        """Refuse now what would not fit into the queue.

        Raises:
            QueueFull: with the seconds after which the backlog will be gone.
        """
        if self.depth + images > self._max_queue:
            seconds = max(1, round(self.depth / max(self._answered_per_second, 1.0)))
            raise QueueFull(
                f"the queue must have room for {images} image(s) beside those that wait. "
                f"Given: {self.depth} of {self._max_queue} wait",
                retry_after_seconds=min(seconds, 60),
            )

    def submit(self, model: ServedModel, data: bytes, size: int, deadline: float) -> asyncio.Future[Part]:
        """Queue `size` inputs, back to back in `data`; at most `max_batch_size` of them.

        The future gives their part of an answer, or raises ModelFailed, DeadlineExceeded or Unavailable; it always does
        one of them by a moment after `deadline`, which is on time.monotonic()'s clock.
        """
        future: asyncio.Future[Part] = self._loop.create_future()
        ticket = _Ticket(model.key, data, size, deadline, future)
        self._tickets.add(ticket)
        self.depth += size
        queue = self._queues.get(model.key)
        if queue is None:
            queue = self._queues[model.key] = collections.deque()
        queue.append(ticket)
        self._flush_soon()
        return future

    # Blocks

    def _flush_soon(self) -> None:
        # Not at once: every request that the loop has already read from its sockets joins the same block.
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        progress = True
        while progress and self._queues:
            progress = False
            for key in list(self._queues):  # a block of each model in turn, so that none starves another
                link = self._link_for(key)
                if link is not None:
                    self._send_block(link, key)
                    progress = True

    def _link_for(self, key: tuple[str, int]) -> WorkerLink | None:
        free = [link for link, worker in self._workers.items() if worker.has_room_for(key)]
        return min(free, key=lambda link: len(self._workers[link].blocks), default=None)

    def _send_block(self, link: WorkerLink, key: tuple[str, int]) -> None:
        queue = self._queues[key]
        tickets: list[_Ticket] = []
        size = 0
        while queue and size + queue[0].size <= self._max_batch_size:
            ticket = queue.popleft()
            if not ticket.future.done():
                tickets.append(ticket)
                size += ticket.size
        if not queue:
            del self._queues[key]
        if not tickets:
            return
        worker = self._workers[link]
        block_id = next(self._block_ids)
        worker.blocks[block_id] = tickets
        deadline = max(ticket.deadline for ticket in tickets)
        chunks = [ticket.data for ticket in tickets]
        link.send(frames.pack_block(block_id, worker.handles[key], size, deadline, chunks))

    def _finish(self, ticket: _Ticket, outcome: Part | Exception) -> None:
        if ticket not in self._tickets:
            return
        self._tickets.remove(ticket)
        self.depth -= ticket.size
        self._answered += ticket.size
        if ticket.future.done():
            return
        if isinstance(outcome, Part):
            ticket.future.set_result(outcome)
        else:
            ticket.future.set_exception(outcome)

    # LinkListener

    def models_announced(self, link: WorkerLink, models: tuple[Announcement, ...]) -> None:
        worker = self._workers[link]
        worker.models = {(m.manifest.name, m.manifest.version): ServedModel(m) for m in models}
        worker.handles = {(m.manifest.name, m.manifest.version): m.handle for m in models}
        worker.connected = True
        served = {key: model for worker in self._workers.values() for key, model in worker.models.items()}
        self._models = [served[key] for key in sorted(served)]
        self._resolved.clear()
        self._flush_soon()

    def block_answered(self, link: WorkerLink, block_id: int, answer: Answer) -> None:
        worker = self._workers[link]
        tickets = worker.blocks.pop(block_id)
        self._on_answer(worker.models[tickets[0].key], answer)
        start = 0
        for ticket in tickets:
            self._finish(ticket, Part(answer, start, ticket.size))
            start += ticket.size
        if self._queues:
            # Those who have just been answered may ask again at once; let them join.
            self._flush_soon()

    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None:
        now = time.monotonic()
        for ticket in self._workers[link].blocks.pop(block_id):
            late = ticket.deadline <= now
            self._finish(ticket, _too_late() if late else Unavailable(f"a worker must take the block. Given: {reason}"))
        self._flush_soon()

    def worker_lost(self, link: WorkerLink) -> None:
        worker = self._workers[link]
        worker.connected = False
        blocks, worker.blocks = worker.blocks, {}
        for tickets in reversed(blocks.values()):
            for ticket in reversed(tickets):
                ticket.attempts += 1
                if ticket.attempts < MAX_ATTEMPTS:
                    self._queues.setdefault(ticket.key, collections.deque()).appendleft(ticket)
                else:
                    self._finish(ticket, ModelFailed(f"the model must compute the input. {MAX_ATTEMPTS} workers died"))
        self._flush_soon()

    # Deadlines

    async def _sweep(self) -> None:
        """Answer what is late. One pass over all tickets each tenth of a second costs less than a timer for each."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._answered_per_second += 0.1 * (self._answered / _SWEEP_SECONDS - self._answered_per_second)
            self._answered = 0
            now = time.monotonic()
            late = [ticket for ticket in self._tickets if ticket.deadline <= now]
            for ticket in late:
                self._finish(ticket, _too_late())
            if late:
                self._drop_finished()

    def _drop_finished(self) -> None:
        for key, queue in list(self._queues.items()):
            waiting = collections.deque(ticket for ticket in queue if not ticket.future.done())
            if waiting:
                self._queues[key] = waiting
            else:
                del self._queues[key]


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the answer must come before the deadline. Given: the deadline passed in the queue")
