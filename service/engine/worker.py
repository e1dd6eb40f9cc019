"""The worker that owns a device: it merges blocks from every HTTP process into batches and answers them.

One thread, one loop: read what has arrived, start a batch of it, send the answers of what is computed, look again.
Nothing waits while the device is idle, and blocks that arrive during a batch form the next one, so batches grow by
themselves. A device that computes asynchronously gets the next batch before it is done with the last; on the CPU a
batch is computed when it is started. One socket is all that connects a worker and an HTTP process: when either dies,
the other notices at once.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from service.engine import messages
from service.engine.line_up import LineUp
from service.engine.messages import Block, Kind
from service.engine.peer import Peer
from service.engine.served_models import ServedModel
from service.model.model import Model
from service.model.outputs import Outputs, Pending
from service.model.selftest import SelfTests, UnsoundWorkerError

logger = logging.getLogger(__name__)

_HOLD_SECONDS = 0.01
"""Between two looks at what has arrived while all that waits is for a suspect."""

_BATCHES_UNDERWAY = 2
"""One that a device computes, and one that it continues with."""

_FEW_SINGLES = 4
"""Batches of one input that came soon, after which the next is expected soon, too: few clients ask at a time."""


class Timing(NamedTuple):
    """The durations that a worker waits."""

    idle_seconds: float = 0.5
    """Between two heartbeats of an idle worker."""

    watch_seconds: float = 0.002
    """While a single batch is computed, the loop turns for this long without resting, to give the device another one:
    sockets would wake it, the device does not. After a batch that takes longer, an idle moment is a small share."""

    linger_seconds: float = 0.0004
    """While single inputs come this soon after each other's answers, the loop turns for as long without resting: a
    client that asks one thing after the other is answered a quarter sooner, for the same CPU time."""

    memory_seconds: float = 0.5
    """Between two looks at how much memory the process holds."""

    suspicion_seconds: float = 0.5
    """For which others go before the model that the worker's predecessor died of."""

    retirement_seconds: float = 10.0
    """Until HTTP processes have heard that a model is no longer served and stop sending blocks for it."""


class OversizedWorkerError(Exception):
    """The worker holds more memory than it may, and must be replaced by a new process."""


class MemoryLimit(NamedTuple):
    """The bytes that a worker may hold, and how many it holds now; no limit if 0."""

    bytes: int = 0
    held: Callable[[], int] = lambda: 0


class _Job(NamedTuple):
    peer: Peer
    block_id: int
    block: Block
    arrived: float


class _Batch(NamedTuple):
    """Jobs that are computed together, and were started."""

    jobs: list[_Job]
    model: Model
    data: bytearray
    pending: Pending
    started: float


class Worker:
    """Serves a line-up of models to whoever connects to `listener`, until the process ends.

    `beat` is called at least every half second while the loop turns, with time.monotonic() and the number of batches
    that were answered so far. `on_compute` is called with a model before a batch of it is started, and with None when
    all that was started is answered, so that a process's death can be blamed on a model. `suspect` is the identity of
    the one that the worker's predecessor died of: at first it lets others go before it, so that what waited while it
    hung need not wait for it again.
    """

    def __init__(
        self,
        line_up: LineUp,
        listener: socket.socket,
        *,
        max_batch_size: int,
        beat: Callable[[float, int], None],
        self_tests: SelfTests,
        on_compute: Callable[[Model | None], None] = lambda _model: None,
        suspect: bytes = b"",
        memory: MemoryLimit = MemoryLimit(),  # noqa: B008 - immutable
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ) -> None:
        self._handles = itertools.count()
        self._models: dict[int, Model] = {}
        self._line_up = LineUp(())
        self._announcement = b""  # the message that tells HTTP processes about the line-up
        self._retired: dict[int, float] = {}  # handle -> when the last block for it can have come
        self._offered: LineUp | None = line_up
        self._wakes, self._waker = os.pipe()
        self._listener = listener
        self._max_batch_size = max_batch_size
        self._beat = beat
        self._batches = 0
        self._self_tests = self_tests
        self._on_compute = on_compute
        self._suspect = suspect
        self._suspect_until = time.monotonic() + timing.suspicion_seconds
        self._memory = memory
        self._memory_due = 0.0
        self._timing = timing
        self._selector = selectors.DefaultSelector()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._underway: collections.deque[_Batch] = collections.deque()
        self._landed = 0.0  # when the last batch was computed
        self._singles = 0  # batches of one input that came soon after the answer before, one after the other
        self._swap()

    def offer(self, line_up: LineUp) -> None:
        """Serve `line_up` from the next batch on. May be called from another thread."""
        self._offered = line_up
        os.write(self._waker, b".")

    def run(self, stop: int) -> None:
        """Serve until the file descriptor `stop` becomes readable.

        Raises:
            UnsoundWorkerError: a golden sample came out wrong.
            OversizedWorkerError: the process holds more memory than it may.
            DeviceFailedError: the device does not compute any more.
        """
        try:
            self.open(stop)
            while self.turn():
                pass
        except (UnsoundWorkerError, OversizedWorkerError):
            self.say_goodbye()
            raise
        finally:
            self.close()  # at once: HTTP processes then send their blocks to another worker

    def open(self, stop: int) -> None:
        """Begin to listen to the sockets and to `stop`; `turn` does the rest."""
        self._stop = stop
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(stop, selectors.EVENT_READ)
        self._selector.register(self._wakes, selectors.EVENT_READ)

    def turn(self) -> bool:
        """Go round the loop once; False when `stop` has become readable."""
        now = time.monotonic()
        self._beat(now, self._batches)
        if self._memory.bytes and now >= self._memory_due:
            self._check_memory(now)
        if self._suspect and now >= self._suspect_until:
            self._suspect = b""
        for key, events in self._selector.select(self._rest_seconds()):
            if key.fd == self._stop:
                return False
            if key.fd == self._wakes:
                os.read(self._wakes, 512)
                self._swap()
            elif key.fileobj is self._listener:
                self._accept()
            elif events & selectors.EVENT_READ:
                self._read(key.data)
            else:
                key.data.send()
        # There is room for another: `_land` never leaves more than one underway.
        if self._jobs and (jobs := self._next_batch()):
            self._start(jobs)
        if self._underway:
            self._land()
        if self._retired:
            self._forget_retired()
        self._self_tests.run_one()
        return True

    def _rest_seconds(self) -> float:
        """Return how long to wait for sockets."""
        if self._underway:
            return 0
        if self._jobs:
            return _HOLD_SECONDS if self._suspect else 0
        if self._singles >= _FEW_SINGLES and time.monotonic() - self._landed < self._timing.linger_seconds:
            return 0
        return self._timing.idle_seconds

    def _check_memory(self, now: float) -> None:
        self._memory_due = now + self._timing.memory_seconds
        held = self._memory.held()
        if held > self._memory.bytes:
            raise OversizedWorkerError(f"a worker must hold at most {self._memory.bytes:,} bytes. Given: {held:,}")

    def say_goodbye(self) -> None:
        """Tell everybody that this worker ends of its own accord, so that no image is suspected of ending it."""
        for peer in self._peers():
            peer.send(messages.pack(Kind.GOODBYE, 0, b""))

    def close(self) -> None:
        """Close every connection."""
        for peer in self._peers():
            peer.close()
        self._selector.close()
        os.close(self._wakes)
        os.close(self._waker)

    def _accept(self) -> None:
        if peer := Peer.accept(self._listener, self._selector):
            peer.send(self._announcement)

    def _swap(self) -> None:
        """Take over the line-up that was offered last: give new models handles, tell every peer, retire the others."""
        line_up, self._offered = self._offered, None
        if line_up is None:
            return
        handles = {id(model): handle for handle, model in self._models.items()}
        served = {handles.get(id(e.model), -1): e for e in line_up.served if id(e.model) in handles}
        served |= {next(self._handles): e for e in line_up.served if id(e.model) not in handles}
        self._models |= {handle: entry.model for handle, entry in served.items()}
        # HTTP processes that have not heard of it yet still send blocks for a retired model.
        until = time.monotonic() + self._timing.retirement_seconds
        self._retired = {handle: self._retired.get(handle, until) for handle in self._models if handle not in served}
        if line_up.served != self._line_up.served:
            names = (f"{e.model}{'' if e.default else ' (not by default)'}" for e in line_up.served)
            logger.info("serving %s", ", ".join(names))
        self._line_up = line_up
        models = {
            handle: ServedModel(e.model.manifest, default=e.default, aliases=e.aliases, form=e.model.form)
            for handle, e in served.items()
        }
        self._announcement = messages.pack_models(models, line_up.absent)
        self._self_tests.follow(entry.model for entry in line_up.served)
        for peer in self._peers():
            peer.send(self._announcement)

    def _peers(self) -> list[Peer]:
        return [key.data for key in self._selector.get_map().values() if key.data]

    def _forget_retired(self) -> None:
        now = time.monotonic()
        for handle in [handle for handle, until in self._retired.items() if until <= now]:
            del self._retired[handle], self._models[handle]

    def _read(self, peer: Peer) -> None:
        received = peer.receive()
        if received is None:
            # Nobody waits for these any more.
            self._jobs = collections.deque(job for job in self._jobs if job.peer is not peer)
            return
        arrived = time.monotonic()
        for message in received:
            self._jobs.append(_Job(peer, message.block_id, messages.unpack_block(message.payload), arrived))

    def _next_batch(self) -> list[_Job]:
        """Remove and return the oldest job, and every other of the same model that fits beside it."""
        batch: list[_Job] = []
        size = 0
        for _ in range(len(self._jobs)):
            job = self._jobs.popleft()
            if self._suspect and self._is_suspect(job):
                self._jobs.append(job)
                continue
            if batch and (job.block.handle != batch[0].block.handle or size + job.block.size > self._max_batch_size):
                self._jobs.append(job)
                continue
            batch.append(job)
            size += job.block.size
        return batch

    def _is_suspect(self, job: _Job) -> bool:
        model = self._models.get(job.block.handle)
        return model is not None and model.identity == self._suspect

    def _start(self, jobs: list[_Job]) -> None:
        model = self._models.get(jobs[0].block.handle)
        started = time.monotonic()
        wanted = [job for job in jobs if job.block.deadline > started]
        for job in jobs:
            if model is None:
                self._refuse(job, "the worker does not serve this version")
            elif job.block.deadline <= started:
                self._refuse(job, "the deadline passed before the block was computed")
        if model is None or not wanted:
            return
        data = bytearray().join(job.block.data for job in wanted)
        self._on_compute(model)
        self._underway.append(_Batch(wanted, model, data, model.start(model.batch(data)), started))

    def _land(self) -> None:
        """Answer the oldest batch if it is computed; wait for it if there is nothing else to do."""
        oldest = self._underway[0]
        if (
            not oldest.pending.ready()
            and len(self._underway) < _BATCHES_UNDERWAY
            and time.monotonic() - max(oldest.started, self._landed) < self._timing.watch_seconds
        ):
            return
        self._underway.popleft()  # and wait, without a heartbeat, so that a batch that never ends is noticed
        self._answer(oldest, outputs_of(oldest.model, oldest.data, oldest.pending))
        if not self._underway:
            self._on_compute(None)

    def _answer(self, batch: _Batch, outputs: Outputs) -> None:
        size = len(outputs.class_ids)
        came_soon = batch.jobs[0].arrived - self._landed < self._timing.linger_seconds
        self._singles = self._singles + 1 if size == 1 and came_soon else 0
        began = max(batch.started, self._landed)  # before that the device had another
        self._landed = time.monotonic()
        self._batches += 1
        start = 0
        for job in batch.jobs:
            own = slice(start, start + job.block.size)
            start = own.stop
            share = outputs if job.block.size == size else [column[own] for column in outputs]
            columns = tuple([column.tobytes() for column in share])
            job.peer.send(
                messages.pack_answer(
                    job.block_id,
                    columns,
                    classes=outputs.logits.shape[1],
                    batch_size=size,
                    queue_seconds=began - job.arrived,
                    compute_seconds=self._landed - began,
                )
            )

    def _refuse(self, job: _Job, reason: str) -> None:
        job.peer.send(messages.pack(Kind.REFUSAL, job.block_id, reason.encode()))


def outputs_of(model: Model, data: bytearray, pending: Pending) -> Outputs:
    """Return the outputs of a batch; if the model fails on it, halve it until the bad images are alone."""
    try:
        return pending.outputs()
    except RuntimeError as error:
        size = len(data) // model.input_bytes
        if size == 1:
            logger.error("%s failed on an image: %s", model, error)
            return model.failed()
        middle = size // 2 * model.input_bytes
        halves = data[:middle], data[middle:]
        return Outputs.join(*(outputs_of(model, half, model.start(model.batch(half))) for half in halves))
