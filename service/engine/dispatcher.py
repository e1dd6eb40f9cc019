"""Coalesces what waits in one HTTP process into blocks and sends them to the workers.

Whatever is waiting when a worker has room leaves together, as one block, without a timer. A block whose worker dies
goes back to the head of its lane. Knows nothing about HTTP or images: inputs are bytes of the model's exact size.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.engine import messages
from service.engine.messages import Absent, Announced, Answer
from service.engine.queues import Client, Lane, Lanes, Part, Ticket
from service.engine.served_models import Key, Offer, ServedModel
from service.engine.worker_link import WorkerLink
from service.problems import ClientGone, DeadlineExceeded, ModelFailed, QueueFull, Unavailable

BLOCKS_IN_FLIGHT = 2
"""Blocks that a worker may hold of one HTTP process: one that it computes, one that it finds when it is done."""

_SHORT_SECONDS = 0.001
"""A block that has been away for less may be back at once, so the next one for its model waits until it is as large:
small blocks cost both sides more than their images do. To a block that takes longer the next one is sent ahead."""

BULK_BLOCKS_IN_FLIGHT = 1
"""The same for bulk requests, so that an urgent block never waits behind more than one of them."""

TICKETS_PER_BATCH = 4
"""Into so many tickets a batch's worth of one request is cut, so that others fit between them."""

MAX_ATTEMPTS = 3
"""Workers that may die with a block before it is given up: it may be what kills them."""

_SWEEP_SECONDS = 0.1
_MAX_RETRY_SECONDS = 60


class _Block(NamedTuple):
    model: ServedModel
    lane: Lane
    tickets: list[Ticket]
    size: int  # of inputs
    sent: float


class _Worker:
    """What a link's worker serves, and what it holds of ours."""

    def __init__(self) -> None:
        self.connected = False
        self.models: dict[Key, ServedModel] = {}
        self.absent: tuple[Absent, ...] = ()
        self.handles: dict[Key, int] = {}
        self.blocks: dict[int, _Block] = {}

    def has_room_for(self, lane: Lane) -> bool:
        limit = BULK_BLOCKS_IN_FLIGHT if lane.bulk else BLOCKS_IN_FLIGHT
        return self.connected and len(self.blocks) < limit and lane.key in self.handles

    def may_soon_answer(self, lane: Lane) -> bool:
        """Whether the block that left last may, so that what waits in `lane` for the same model can grow meanwhile."""
        if not self.blocks:
            return False
        last = next(reversed(self.blocks.values()))
        return last.lane.key == lane.key and lane.size < last.size and time.monotonic() - last.sent < _SHORT_SECONDS


class Dispatcher:
    """The queue of one HTTP process. All of it runs on the event loop's thread.

    `on_answer` is told of every block that is answered.
    """

    def __init__(
        self,
        paths: list[str],
        *,
        default_model: str,
        max_batch_size: int,
        max_queue: int,
        on_answer: Callable[[ServedModel, Answer], None] = lambda _model, _answer: None,
    ) -> None:
        self.offer = Offer(default_model)
        self.depth = 0
        """Images that were accepted and are not answered."""
        self._max_batch_size = max_batch_size
        self._max_ticket_size = max(1, max_batch_size // TICKETS_PER_BATCH)
        self.max_queue = max_queue
        self._on_answer = on_answer
        self._workers = {WorkerLink(path, self): _Worker() for path in paths}
        self._lanes = Lanes()
        self._tickets: set[Ticket] = set()
        self._block_ids = itertools.count(1)
        self._flush_is_due = False
        self._second_look: asyncio.TimerHandle | None = None
        self._answered = 0
        self._peak_rate = 0.0
        self._compute_seconds = 0.0  # of a batch, lately
        self._sweeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._announced = asyncio.Event()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep())
        for link in self._workers:
            link.open()

    async def close(self) -> None:
        for pending in (self._sweeper, self._second_look):
            if pending:
                pending.cancel()
        for link in self._workers:
            await link.close()

    async def wait_for_worker(self, seconds: float) -> None:
        """Until some worker has said what it serves, or `seconds` have passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._announced.wait(), seconds)

    def is_ready(self, model: ServedModel) -> bool:
        """Whether some worker would compute for `model` now."""
        return any(worker.connected and model.key in worker.handles for worker in self._workers.values())

    def waiting(self) -> dict[str, tuple[int, float]]:
        """For each model that has any: its images that are not answered, and when the oldest was submitted."""
        lanes = [(lane.key, lane.tickets()) for lane in self._lanes.in_turn()]
        blocks = itertools.chain.from_iterable(worker.blocks.values() for worker in self._workers.values())
        sent = [(block.model.key, block.tickets) for block in blocks]
        found: dict[str, tuple[int, float]] = {}
        for (name, _), tickets in itertools.chain(lanes, sent):
            depth, oldest = found.get(name, (0, math.inf))
            for ticket in tickets:
                if ticket in self._tickets:
                    depth += ticket.size
                    oldest = min(oldest, ticket.submitted)
            if depth:
                found[name] = depth, oldest
        return found

    # Asking

    def admit(self, images: int, seconds: float) -> None:
        """Refuse now what would not fit into the queue, or would not be answered within `seconds`.

        Raises:
            QueueFull: with the seconds after which the backlog will be gone.
        """
        backlog_seconds = self.depth / self._peak_rate if self._peak_rate else 0.0
        computing = self._compute_seconds if backlog_seconds else 0.0  # behind the backlog its own batch is computed
        if self.depth + images <= self.max_queue and backlog_seconds + computing <= seconds:
            return
        raise QueueFull(
            f"the queue must have room for {images} more image(s) and the answer come within {seconds:.3g} s. "
            f"Given: {self.depth} of {self.max_queue} wait, for about {backlog_seconds + computing:.3g} s",
            retry_after_seconds=min(max(1, round(backlog_seconds)), _MAX_RETRY_SECONDS),
        )

    def submit(
        self, model: ServedModel, data: bytes, size: int, deadline: float, client: Client, *, bulk: bool = False
    ) -> list[asyncio.Future[Part]]:
        """Queue `size` inputs, back to back in `data`; gives a future for each part of the answer, in order.

        Each future gives its part or raises ModelFailed, DeadlineExceeded, Unavailable or ClientGone; it does so by a
        moment after `deadline`, which is on time.monotonic()'s clock.
        """
        step = self._max_ticket_size
        head = data if size <= step else data[: step * model.input_bytes]
        first = last = self._ticket(head, min(size, step), deadline, client)
        futures = [first.future]
        for start in range(step, size, step):
            chunk = data[start * model.input_bytes : (start + step) * model.input_bytes]
            last.next = self._ticket(chunk, min(step, size - start), deadline, client)
            last = last.next
            futures.append(last.future)
        self._lanes.lane(model.key, bulk=bulk).add(first)
        self._flush_soon()
        return futures

    def _ticket(self, data: bytes, size: int, deadline: float, client: Client) -> Ticket:
        ticket = Ticket(data, size, deadline, client, self._loop.create_future())
        self._tickets.add(ticket)
        self.depth += size
        return ticket

    def _finish(self, ticket: Ticket, outcome: Part | Exception) -> None:
        if ticket not in self._tickets:
            return
        self._tickets.remove(ticket)
        self.depth -= ticket.size
        if ticket.future.done():
            return
        if isinstance(outcome, Part):
            self._answered += ticket.size
            ticket.future.set_result(outcome)
        else:
            ticket.future.set_exception(outcome)

    def _is_wanted(self, ticket: Ticket) -> bool:
        if ticket.client.disconnected:
            gone: Ticket | None = ticket
            while gone:
                self._finish(gone, ClientGone())
                gone = gone.next
        return not ticket.future.done()

    # Blocks

    def _flush_soon(self) -> None:
        # Not at once: every request that the loop has already read from its sockets joins the same block.
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        progress = True
        while progress:
            progress = False
            for lane in self._lanes.in_turn():
                link = self._link_for(lane)
                if link and self._workers[link].may_soon_answer(lane):
                    self._look_again()
                elif link:
                    self._send_block(link, lane)
                    progress = True

    def _look_again(self) -> None:
        """Flush once a block that was sent just now is no longer expected at once, though nothing else may happen."""
        if self._second_look is None:
            self._second_look = self._loop.call_later(_SHORT_SECONDS, self._flush_again)

    def _flush_again(self) -> None:
        self._second_look = None
        self._flush()

    def _link_for(self, lane: Lane) -> WorkerLink | None:
        free = [link for link, worker in self._workers.items() if worker.has_room_for(lane)]
        return min(free, key=lambda link: len(self._workers[link].blocks), default=None)

    def _send_block(self, link: WorkerLink, lane: Lane) -> None:
        tickets = lane.take(self._max_batch_size, self._is_wanted)
        self._lanes.had_turn(lane)
        if not tickets:
            return
        worker = self._workers[link]
        block_id = next(self._block_ids)
        size = sum(ticket.size for ticket in tickets)
        worker.blocks[block_id] = _Block(worker.models[lane.key], lane, tickets, size, time.monotonic())
        deadline = max(ticket.deadline for ticket in tickets)
        chunks = [ticket.data for ticket in tickets]
        link.send(messages.pack_block(block_id, worker.handles[lane.key], size, deadline, chunks))

    # LinkListener

    def models_announced(self, link: WorkerLink, announced: Announced) -> None:
        worker = self._workers[link]
        served = [ServedModel(announcement) for announcement in announced.models]
        worker.models = {model.key: model for model in served}
        worker.handles = {model.key: a.handle for model, a in zip(served, announced.models, strict=True)}
        worker.absent = announced.absent
        worker.connected = True
        self._announced.set()
        workers = self._workers.values()
        self.offer.replace(
            (model for worker in workers for model in worker.models.values()),
            (absent for worker in workers for absent in worker.absent),
        )
        for ticket in self._lanes.remove(lambda key: not self.offer.has(key)):
            self._finish(ticket, Unavailable("the version must still be served. Given: it was withdrawn; ask again"))
        self._flush_soon()

    def block_answered(self, link: WorkerLink, block_id: int, answer: Answer) -> None:
        worker = self._workers[link]
        block = worker.blocks.pop(block_id)
        self._on_answer(block.model, answer)
        self._compute_seconds += (answer.compute_seconds - self._compute_seconds) * 0.1
        start = 0
        for ticket in block.tickets:
            self._finish(ticket, Part(answer, start, ticket.size))
            start += ticket.size
        if self._lanes:
            # Those who have just been answered may ask again at once; let them join.
            self._flush_soon()

    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None:
        now = time.monotonic()
        for ticket in self._workers[link].blocks.pop(block_id).tickets:
            late = ticket.deadline <= now
            self._finish(ticket, _too_late() if late else Unavailable(f"a worker must take the block. Given: {reason}"))
        self._flush_soon()

    def worker_lost(self, link: WorkerLink) -> None:
        worker = self._workers[link]
        worker.connected = False
        blocks, worker.blocks = worker.blocks, {}
        for block in reversed(blocks.values()):
            lane = self._lanes.lane(block.lane.key, bulk=block.lane.bulk)
            for ticket in reversed(block.tickets):
                ticket.attempts += 1
                if ticket.attempts < MAX_ATTEMPTS:
                    lane.put_back(ticket)
                else:
                    self._finish(ticket, ModelFailed(f"the model must compute the input. {MAX_ATTEMPTS} workers died"))
        self._flush_soon()

    # Deadlines

    async def _sweep(self) -> None:
        """Answer what is late. One pass over all tickets each tenth of a second costs less than a timer for each."""
        was_busy = False
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            # What a worker that is being replaced does not answer says nothing of how fast its successor will be.
            is_busy = bool(self._lanes) and any(worker.connected for worker in self._workers.values())
            if is_busy and was_busy:  # more waits than the workers can hold: this is as fast as they are
                self._learn_rate(self._answered / _SWEEP_SECONDS)
            self._answered, was_busy = 0, is_busy
            now = time.monotonic()
            late = [ticket for ticket in self._tickets if ticket.deadline <= now]
            for ticket in late:
                self._finish(ticket, _too_late())
            self._lanes.keep(self._is_wanted)

    def _learn_rate(self, rate: float) -> None:
        self._peak_rate += (rate - self._peak_rate) * (0.1 if self._peak_rate else 1.0)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the answer must come before the deadline. Given: the deadline passed in the queue")
