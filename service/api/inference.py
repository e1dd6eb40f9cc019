"""Inference on the inputs that a request brings, the same for every protocol: decode, admit, submit, gather."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from service.api.auth import over_quota
from service.api.keys import Key
from service.api.quotas import Quotas
from service.api.turns import Turns
from service.contract.manifest import ImageInput
from service.engine.dispatcher import Dispatcher
from service.engine.queues import Client, Part, Receiver
from service.engine.served_models import ServedModel
from service.images import decode as images
from service.images.decode_pool import DecodePool
from service.problems import DeadlineExceeded, Problem
from service.settings import Settings
from service.telemetry.metrics.recorder import Stages

TURN_SECONDS = 0.005
"""For which a request of many images may hold the loop, while other requests wait."""


class Ask:
    """A client's question to a model, useful until `deadline` (on time.monotonic()'s clock)."""

    __slots__ = ("bulk", "client", "deadline", "key", "model")

    def __init__(
        self, model: ServedModel, deadline: float, client: Client, *, bulk: bool = False, key: Key | None = None
    ) -> None:
        self.model = model
        self.deadline = deadline
        self.client = client
        self.bulk = bulk
        self.key = key


class Computed:
    """The parts of an answer, and where the time went, in seconds; `submitted` is on time.monotonic()'s clock."""

    __slots__ = ("compute_seconds", "parts", "queue_seconds", "submitted")

    def __init__(self, parts: list[Part], submitted: float, queue_seconds: float, compute_seconds: float) -> None:
        self.parts = parts
        self.submitted = submitted
        self.queue_seconds = queue_seconds
        self.compute_seconds = compute_seconds

    @classmethod
    def one(cls, part: Part, submitted: float) -> Computed:
        """Return what has just come of inputs that were `submitted` as one chunk."""
        waited = time.monotonic() - submitted
        compute = min(waited, part.answer.compute_seconds)
        return cls([part], submitted, waited - compute, compute)

    @property
    def batch_size(self) -> int:
        """The number of inputs computed together, of this request and of others; of several batches the largest."""
        if len(self.parts) == 1:
            return self.parts[0].answer.batch_size
        return max((part.answer.batch_size for part in self.parts), default=0)

    @classmethod
    def nothing(cls) -> Computed:
        """Return that no input had to be computed."""
        return cls([], time.monotonic(), 0.0, 0.0)

    def stages(self, started: float, read: float, answered: float) -> Stages:
        """Return the stages of a request that began at `started` and whose body was complete at `read`."""
        queue, compute = self.queue_seconds, self.compute_seconds
        waited_until = self.submitted + queue + compute
        return read - started, self.submitted - read, queue, compute, answered - waited_until


class Inference:
    """Decodes inputs and has them computed."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        pool: DecodePool,
        quotas: Quotas | None = None,
        *,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self.dispatcher = dispatcher
        self.settings = settings
        self._pool = pool
        self._quotas = quotas
        self._turns = Turns()
        self._turn_seconds = turn_seconds
        self._max_pixels = settings.max_pixels

    @property
    def chunk_size(self) -> int:
        """The most inputs that `start` takes."""
        return self.dispatcher.chunk_size

    def decode_at_once(self, data: bytes, spec: ImageInput) -> bytes | None:
        """Return one image as the model takes it, or None if that could take more than a few milliseconds.

        Raises:
            BadRequest, TooLarge: as `decode`.
        """
        return images.decode_at_once(data, spec, max_pixels=self._max_pixels)

    async def decode(self, data: bytes, spec: ImageInput, ask: Ask) -> bytes:
        """Return one image as the model takes it; a large one is decoded by another process.

        Raises:
            BadRequest, TooLarge, DeadlineExceeded, ClientGone: as `DecodePool.decode`.
        """
        at_once = self.decode_at_once(data, spec)
        return at_once if at_once is not None else await self._decode_elsewhere(data, spec, ask)

    async def decode_signs(self, data: bytes, spec: ImageInput, ask: Ask) -> bytes:
        """Return the signs of one picture as the model takes them, back to back; always by another process.

        Raises:
            BadRequest, TooLarge, DeadlineExceeded, ClientGone: as `DecodePool.decode`.
        """
        return await self._decode_elsewhere(data, spec, ask, signs=True)

    async def _decode_elsewhere(self, data: bytes, spec: ImageInput, ask: Ask, *, signs: bool = False) -> bytes:
        gone, most = partial(getattr, ask.client, "disconnected"), self.settings.max_pixels
        return await self._pool.decode(data, spec, max_pixels=most, deadline=ask.deadline, is_gone=gone, signs=signs)

    async def decode_all(self, found: Sequence[bytes | Problem], spec: ImageInput, ask: Ask) -> list[bytes | Problem]:
        """Return each image as the model takes it, or its problem; other requests get turns in between.

        Raises:
            DeadlineExceeded, ClientGone: as `DecodePool.decode`, and there is no time for the others either.
        """
        decoded = []
        turn_ends = 0.0
        for image in found:
            if time.monotonic() >= turn_ends:
                await self._turns.take()
                if time.monotonic() >= ask.deadline:
                    raise DeadlineExceeded("the images must decode before the request's deadline. Given: they did not")
                turn_ends = time.monotonic() + self._turn_seconds
            decoded.append(await self._decode_or_problem(image, spec, ask))
        return decoded

    async def _decode_or_problem(self, image: bytes | Problem, spec: ImageInput, ask: Ask) -> bytes | Problem:
        if isinstance(image, Problem):
            return image
        try:
            return await self.decode(image, spec, ask)
        except DeadlineExceeded:
            raise
        except Problem as problem:
            return problem

    def start(self, ask: Ask, data: bytes, size: int, receiver: Receiver) -> None:
        """Have `size` inputs computed, back to back in `data`, at most `chunk_size`; `receiver` is told.

        Raises:
            QuotaExceeded, QueueFull: as `compute`.
        """
        self._admit(ask, size)
        self.dispatcher.submit_chunk(ask.model, data, size, ask.deadline, ask.client, receiver, bulk=ask.bulk)

    async def compute(self, ask: Ask, data: bytes, size: int) -> Computed:
        """Return what the model computes from `size` inputs, back to back in `data`, or nothing from none.

        Raises:
            QuotaExceeded: they are more than the key's quota has room for.
            QueueFull: they do not fit into the queue.
            Problem, ClientGone: as `Dispatcher.submit`.
        """
        if not size:
            return Computed.nothing()
        self._admit(ask, size)
        submitted = time.monotonic()
        futures = self.dispatcher.submit(ask.model, data, size, ask.deadline, ask.client, bulk=ask.bulk)
        if len(futures) == 1:
            return Computed.one(await futures[0], submitted)
        parts = await _all_parts(futures)
        # Parts may share a block, and blocks may be computed at the same time on two devices.
        compute = sum({id(part.answer): part.answer.compute_seconds for part in parts}.values())
        waited = time.monotonic() - submitted
        compute = min(waited, compute)
        return Computed(parts, submitted, waited - compute, compute)

    def _admit(self, ask: Ask, size: int) -> None:
        if ask.key and ask.key.images_per_second and self._quotas and (wait := self._quotas.use_images(ask.key, size)):
            raise over_quota(ask.key, wait)
        if size > 1:  # one image was admitted with its request
            self.dispatcher.admission.admit(ask.model.key, size, ask.deadline - time.monotonic())


async def _all_parts(futures: list[asyncio.Future[Part]]) -> list[Part]:
    """Return the parts once each has come or failed, so that no failure goes unheard."""
    parts = await asyncio.gather(*futures, return_exceptions=True)
    for part in parts:
        if isinstance(part, BaseException):
            raise part
    return [part for part in parts if isinstance(part, Part)]
