"""The dispatcher of one HTTP process, which coalesces waiting inputs into blocks and sends them to the workers.

Whatever is waiting when a worker has room leaves together, as one block, without a timer; an idle worker gets one as
soon as a chunk's worth waits. A block whose worker dies goes to the retrier, because an image in it may be the cause;
without a retrier it returns to the head of its queue.
Knows nothing about HTTP or images: inputs are bytes of the model's exact size.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence

from service.engine import messages
from service.engine.absent import Absent
from service.engine.admission import Admission
from service.engine.messages import BlockAnswer
from service.engine.queues import Chunk, Client, Part, Queue, Queues, Receiver
from service.engine.retries import Retries, SentBlock
from service.engine.served_models import Key, ServedModel, ServedModels
from service.engine.worker_link import WorkerLink
from service.engine.workers import Worker, Workers
from service.problems import ClientGone, DeadlineExceeded, ModelFailed, Unavailable

SHORT_SECONDS = 0.0005
"""A block sent more recently may be answered at once, so the next one for its model waits until it is as large: small
blocks cost both sides more than their images do. While a longer one is computed, the next is sent ahead."""

CHUNKS_PER_BATCH = 4
"""Into so many chunks a batch's worth of one request is cut, so that others fit between them."""

BLOCK_SECONDS = 0.1
"""For about which a block may be computed, unless one chunk takes longer. CIFAR-10's network took 1.2 s for 128 images
on two busy cores and 0.27 s for 32, so large blocks gained nothing, and made other models wait."""

MAX_ATTEMPTS = 3
"""Workers that may die with a block before it is given up: it may be what kills them."""

_TIMER_SECONDS = 0.001
"""The shortest time for which uvloop's timers wait; less is rounded, half of it to nothing."""

_SWEEP_SECONDS = 0.1


class Dispatcher:
    """Queues the inputs of one HTTP process and sends them to the workers, on the event loop's thread.

    `on_answer` hears of every block that is answered; `retrier` is the path of the retrier's socket; `groups` says of
    each worker which of several groups of models it serves.
    """

    def __init__(
        self,
        paths: list[str],
        *,
        default_model: str,
        max_batch_size: int,
        max_queue: int,
        retrier: str = "",
        groups: Sequence[int] = (),
        on_answer: Callable[[ServedModel, BlockAnswer], None] = lambda _model, _answer: None,
        short_seconds: float = SHORT_SECONDS,
    ) -> None:
        self.served = ServedModels(default_model)
        self._max_batch_size = max_batch_size
        self.chunk_size = max(1, max_batch_size // CHUNKS_PER_BATCH)
        """The most inputs of one request that leave before others have their turn."""
        self.admission = Admission(max_queue, self.chunk_size)
        self._on_answer = on_answer
        self._short_seconds = short_seconds
        self._workers = Workers(paths, groups or [0] * len(paths), self)
        self._retries = Retries(retrier, self)
        self._has_retrier = bool(retrier)
        self._queues = Queues()
        self._chunks: set[Chunk] = set()
        self._queued_before: set[Queue] = set()  # at the last sweep
        self._block_ids = itertools.count(1)
        self._flush_is_due = False
        self._second_look: asyncio.TimerHandle | None = None
        self._next_sweep: asyncio.TimerHandle | None = None  # while anybody waits
        self._swept = 0.0  # when the last sweep was, on time.monotonic()'s clock
        self._loop: asyncio.AbstractEventLoop
        self._announced = asyncio.Event()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._workers.open()
        if self._has_retrier:
            self._retries.link.open()

    async def close(self) -> None:
        for pending in (self._next_sweep, self._second_look):
            if pending:
                pending.cancel()
        await self._workers.close()
        await self._retries.link.close()

    async def wait_for_worker(self, seconds: float) -> None:
        """Wait until some worker has announced its models, or `seconds` have passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._announced.wait(), seconds)

    def is_ready(self, model: ServedModel) -> bool:
        """Return whether some worker would compute for `model` now."""
        return self._workers.any_serves(model.key)

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Return, for each model with unanswered images, how many they are and when the oldest was submitted."""
        queues = [(queue.key, queue.chunks()) for queue in self._queues.in_turn()]
        blocks = itertools.chain(self._workers.blocks(), self._retries.blocks.values())
        sent = [(block.model.key, block.chunks) for block in blocks]
        found: dict[str, tuple[int, float]] = {}
        for (name, _), chunks in itertools.chain(queues, sent):
            depth, oldest = found.get(name, (0, math.inf))
            for chunk in chunks:
                if chunk in self._chunks:
                    depth += chunk.size
                    oldest = min(oldest, chunk.submitted)
            if depth:
                found[name] = depth, oldest
        return found

    # Asking

    def submit(
        self, model: ServedModel, data: bytes, size: int, deadline: float, client: Client, *, bulk: bool = False
    ) -> list[asyncio.Future[Part]]:
        """Queue `size` inputs, back to back in `data`; return a future for each part of the answer, in order.

        Each future gives its part or raises ModelFailed, DeadlineExceeded, Unavailable or ClientGone; it does so by a
        moment after `deadline`, which is on time.monotonic()'s clock.

        Raises:
            Unavailable: the model is served no more. It was when the request's head came, and bodies take time.
        """
        self._expect_served(model.key)
        step = self.chunk_size
        backlog = self.admission.backlog(model.key)
        futures: list[asyncio.Future[Part]] = []
        chunks: list[Chunk] = []
        for start in range(0, size, step):
            own = data if size <= step else data[start * model.input_bytes : (start + step) * model.input_bytes]
            futures.append(self._loop.create_future())
            chunks.append(Chunk(own, min(step, size - start), deadline, client, futures[-1], backlog))
        for chunk, following in itertools.pairwise(chunks):
            chunk.next = following
            chunk.is_last = False
        self._chunks.update(chunks)
        self._queue(model.key, chunks[0], size, bulk=bulk)
        return futures

    def submit_chunk(
        self,
        model: ServedModel,
        data: bytes,
        size: int,
        deadline: float,
        client: Client,
        receiver: Receiver,
        *,
        bulk: bool = False,
    ) -> None:
        """Queue inputs likewise that are one chunk, at most `chunk_size`; `receiver` is told as a future is.

        Raises:
            Unavailable: as `submit`.
        """
        self._expect_served(model.key)
        chunk = Chunk(data, size, deadline, client, receiver, self.admission.backlog(model.key))
        self._chunks.add(chunk)
        queue = self._queue(model.key, chunk, size, bulk=bulk)
        if queue.size >= self.chunk_size and self._workers.any_idle(queue):
            self._flush()  # it computes these while the loop reads more requests, which else would all join them

    def _expect_served(self, key: Key) -> None:
        if refusal := self.served.withdrawal(key):
            raise refusal

    def _queue(self, key: Key, chunk: Chunk, size: int, *, bulk: bool) -> Queue:
        """Queue a chunk and those that follow it, together `size` inputs; return the queue."""
        self.admission.accepted(chunk.backlog, size)
        queue = self._queues.queue(key, bulk=bulk)
        queue.add(chunk)
        self._flush_soon()
        if self._next_sweep is None:
            self._swept = time.monotonic()
            self._next_sweep = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        return queue

    def _finish(self, chunk: Chunk, outcome: Part | Exception) -> None:
        if chunk not in self._chunks:
            return
        self._chunks.remove(chunk)
        self.admission.finished(chunk.backlog, chunk.size, is_last=chunk.is_last)
        if chunk.receiver.done():
            return
        if isinstance(outcome, Part):
            chunk.receiver.set_result(outcome)
        else:
            chunk.receiver.set_exception(outcome)

    def _is_wanted(self, chunk: Chunk) -> bool:
        if chunk.client.disconnected:
            gone: Chunk | None = chunk
            while gone:
                self._finish(gone, ClientGone())
                gone = gone.next
        return not chunk.receiver.done()

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
            for queue in self._queues.in_turn():
                worker = self._workers.free_for(queue)
                if worker and worker.may_soon_answer(queue, self._short_seconds):
                    self._look_again()
                elif worker:
                    self._send_block(worker, queue)
                    progress = True

    def _look_again(self) -> None:
        """Flush once a block that was sent just now is no longer expected at once, though nothing else may happen."""
        if self._second_look is None:
            self._second_look = self._loop.call_later(max(self._short_seconds, _TIMER_SECONDS), self._flush_again)

    def _flush_again(self) -> None:
        self._second_look = None
        self._flush()

    def _send_block(self, worker: Worker, queue: Queue) -> None:
        chunks = queue.take(self._most_in_a_block(queue.key), self._is_wanted)
        self._queues.had_turn(queue)
        if not chunks:
            return
        if self._retries.has_culprits and not (chunks := self._divert(worker.models[queue.key], queue, chunks)):
            return
        block_id = next(self._block_ids)
        size, deadline, payloads = 0, 0.0, []
        for chunk in chunks:
            size += chunk.size
            deadline = max(deadline, chunk.deadline)
            payloads.append(chunk.data)
        worker.blocks[block_id] = SentBlock(worker.models[queue.key], queue, chunks, size, time.monotonic())
        worker.link.send(messages.pack_block(block_id, worker.handles[queue.key], size, deadline, payloads))

    def _divert(self, model: ServedModel, queue: Queue, chunks: list[Chunk]) -> list[Chunk]:
        """Send the retrier what has ended a process before; return the others."""
        safe = []
        for chunk in chunks:
            is_suspect = self._retries.is_suspect(model, chunk)
            if not is_suspect or not self._retries.take(SentBlock(model, queue, [chunk], chunk.size, time.monotonic())):
                safe.append(chunk)
        return safe

    def _most_in_a_block(self, key: Key) -> int:
        """Return how many inputs a block may hold: of a slow model few, so that other models' turns come soon."""
        image_seconds = self.admission.backlog(key).image_seconds
        if image_seconds * self._max_batch_size <= BLOCK_SECONDS:
            return self._max_batch_size
        return max(self.chunk_size, int(BLOCK_SECONDS / image_seconds))

    # LinkListener

    def models_announced(self, link: WorkerLink, models: dict[int, ServedModel], absent: tuple[Absent, ...]) -> None:
        self._workers[link].announced(models, absent)
        self._announced.set()
        self.served.replace(self._workers.models(), self._workers.absent(), all_groups=self._workers.all_groups_spoke)
        self.admission.keep(self.served.has)
        self._answer_withdrawn()
        self._flush_soon()

    def quarantine(self, reasons: Mapping[str, str]) -> None:
        """Compute the versions with these identities no more, and answer those who wait for them."""
        self.served.quarantine(reasons)
        self._answer_withdrawn()

    def _answer_withdrawn(self) -> None:
        """Answer those who wait for versions that are served no more."""
        for key in {queue.key for queue in self._queues.in_turn()}:
            if refusal := self.served.withdrawal(key):
                for chunk in self._queues.remove(key.__eq__):
                    self._finish(chunk, refusal)

    def block_answered(self, link: WorkerLink, block_id: int, answer: BlockAnswer) -> None:
        block = self._workers[link].blocks.pop(block_id)
        self._on_answer(block.model, answer)
        self.admission.block_computed(block.model.key, block.size, answer.compute_seconds, answer.batch_size)
        self._finish_block(block, answer)
        if self._queues:
            # Those who have just been answered may ask again at once; let them join.
            self._flush_soon()

    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None:
        now = time.monotonic()
        for chunk in self._workers[link].blocks.pop(block_id).chunks:
            late = chunk.deadline <= now
            self._finish(chunk, _too_late() if late else Unavailable(f"a worker must take the block. Given: {reason}"))
        self._flush_soon()

    def worker_leaving(self, link: WorkerLink) -> None:
        for block in self._workers[link].left():
            self._put_back(block)
        self._flush_soon()

    def worker_lost(self, link: WorkerLink) -> None:
        self.admission.worker_lost()
        for block in self._workers[link].left():
            wanted = [chunk for chunk in block.chunks if self._is_wanted(chunk)]
            for chunk in wanted:
                chunk.attempts += 1
            lost = block._replace(chunks=wanted, size=sum(chunk.size for chunk in wanted))
            if wanted and not self._retries.take(lost):
                self._put_back(lost)
        self._flush_soon()

    def _put_back(self, block: SentBlock) -> None:
        """Return a block to the head of its queue, except what nobody serves or too many workers have died with."""
        refusal = self.served.withdrawal(block.model.key)
        for chunk in reversed(block.chunks):
            if refusal:
                self._finish(chunk, refusal)
            elif chunk.attempts < MAX_ATTEMPTS:
                self._queues.queue(block.queue.key, bulk=block.queue.bulk).put_back(chunk)
            else:
                self._finish(chunk, ModelFailed(f"the model must compute the input. {MAX_ATTEMPTS} workers died"))

    def _finish_block(self, block: SentBlock, answer: BlockAnswer) -> None:
        start = 0
        for chunk in block.chunks:
            self._finish(chunk, Part(answer, start, chunk.size))
            start += chunk.size

    # Owner of retries

    def block_retried(self, block: SentBlock, answer: BlockAnswer) -> None:
        self._on_answer(block.model, answer)
        self._finish_block(block, answer)

    def block_not_retried(self, block: SentBlock) -> None:
        self._put_back(block)
        self._flush_soon()

    # Deadlines

    def _sweep(self) -> None:
        """Answer late requests, every tenth of a second while anybody waits.

        One pass over all chunks costs less than a timer for each.
        """
        # What a worker that is being replaced does not answer says nothing about how fast its successor will be.
        queued = set(self._queues.in_turn()) if self._workers.any_connected() else set()
        # A queue that runs empty is dropped, so one that is still there has never been without something to send.
        now = time.monotonic()
        self.admission.learn_rates(now - self._swept, {queue.key for queue in queued & self._queued_before})
        self._swept = now
        late = [chunk for chunk in self._chunks if chunk.deadline <= now]
        for chunk in late:
            self._finish(chunk, _too_late())
        self._queues.keep(self._is_wanted)
        self._queued_before = queued if self._chunks else set()
        self._next_sweep = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if self._chunks else None


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the answer must come before the deadline. Given: the deadline passed in the queue")
