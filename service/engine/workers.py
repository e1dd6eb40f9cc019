"""The workers as one HTTP process knows them: what each serves, and which of the process's blocks it holds.

Knows nothing about requests, or about when a block should leave.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from service.engine.absent import Absent
from service.engine.queues import Queue
from service.engine.retries import SentBlock
from service.engine.served_models import Key, ServedModel
from service.engine.worker_link import LinkListener, WorkerLink

BLOCKS_IN_FLIGHT = 2
"""Blocks that a worker may hold of one HTTP process: one that it computes, one that it finds when it is done."""

BULK_BLOCKS_IN_FLIGHT = 1
"""The same for bulk requests, so that an urgent block never waits behind more than one of them."""


class Worker:
    """The worker behind a link."""

    def __init__(self, link: WorkerLink, group: int) -> None:
        self.link = link
        self.group = group
        self.connected = self.has_announced = False
        self.models: dict[Key, ServedModel] = {}
        self.absent: tuple[Absent, ...] = ()
        self.handles: dict[Key, int] = {}
        self.blocks: dict[int, SentBlock] = {}

    def announced(self, models: dict[int, ServedModel], absent: tuple[Absent, ...]) -> None:
        """Take over what the worker says that it serves, by its handles, and what it does not."""
        self.models = {model.key: model for model in models.values()}
        self.handles = {model.key: handle for handle, model in models.items()}
        self.absent = absent
        self.connected = self.has_announced = True

    def left(self) -> list[SentBlock]:
        """Note that the worker is gone; return the blocks that it held, the last one first."""
        self.connected = False
        blocks, self.blocks = self.blocks, {}
        return list(reversed(blocks.values()))

    def has_room_for(self, queue: Queue) -> bool:
        limit = BULK_BLOCKS_IN_FLIGHT if queue.bulk else BLOCKS_IN_FLIGHT
        return self.connected and len(self.blocks) < limit and queue.key in self.handles

    def may_soon_answer(self, queue: Queue, short_seconds: float) -> bool:
        """Return whether the last block may be answered soon, so that `queue` should grow until then."""
        if not self.blocks:
            return False
        last = next(reversed(self.blocks.values()))
        return last.queue.key == queue.key and queue.size < last.size and time.monotonic() - last.sent < short_seconds


class Workers:
    """The workers behind the Unix sockets `paths`; each serves one of several `groups` of models."""

    def __init__(self, paths: Sequence[str], groups: Sequence[int], listener: LinkListener) -> None:
        links = [WorkerLink(path, listener) for path in paths]
        self._by_link = {link: Worker(link, group) for link, group in zip(links, groups, strict=True)}

    def __getitem__(self, link: WorkerLink) -> Worker:
        return self._by_link[link]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_link.values())

    def open(self) -> None:
        """Begin to connect to every worker."""
        for link in self._by_link:
            link.open()

    async def close(self) -> None:
        for link in self._by_link:
            await link.close()

    def free_for(self, queue: Queue) -> Worker | None:
        """Return the worker with the fewest blocks that has room for one of `queue`, or None."""
        found: Worker | None = None
        for worker in self._by_link.values():
            if worker.has_room_for(queue) and (found is None or len(worker.blocks) < len(found.blocks)):
                found = worker
        return found

    def any_idle(self, queue: Queue) -> bool:
        """Return whether a worker that could compute for `queue` holds no block."""
        for worker in self._by_link.values():  # noqa: SIM110 - compiled, a loop takes a tenth of a generator's time
            if not worker.blocks and worker.has_room_for(queue):
                return True
        return False

    def any_serves(self, key: Key) -> bool:
        """Return whether some worker would compute for a model now."""
        return any(worker.connected and key in worker.handles for worker in self)

    def any_connected(self) -> bool:
        return any(worker.connected for worker in self)

    def blocks(self) -> Iterator[SentBlock]:
        """Yield every block that a worker holds."""
        for worker in self:
            yield from worker.blocks.values()

    def models(self) -> Iterator[ServedModel]:
        """Yield what any worker has said that it serves."""
        for worker in self:
            yield from worker.models.values()

    def absent(self) -> Iterator[Absent]:
        """Yield what any worker has said that it does not serve."""
        for worker in self:
            yield from worker.absent

    @property
    def all_groups_spoke(self) -> bool:
        """Whether a worker of every group has said what it serves."""
        return {worker.group for worker in self if worker.has_announced} == {worker.group for worker in self}
