"""The scoring of one shard: read, decode in threads while the model computes, and write its part whole.

This is all that an engine runs, on this machine or on another. Knows nothing about how shards are given out.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict

from service.bulk.destination import PLAN, Destination, part_name
from service.bulk.parts import Rows
from service.bulk.plan import Plan
from service.bulk.reading import Batch, Unreadable, batches
from service.bulk.sources import Source, SourceError
from service.contract.manifest import ImageInput
from service.contract.registry import Registry
from service.contract.variants import FormName
from service.engine.worker import outputs_of
from service.images.decode import decode
from service.model import torchscript
from service.model.model import Model
from service.model.outputs import Pending
from service.problems import Problem
from service.rollout.loader import load_on
from service.settings import Settings

logger = logging.getLogger(__name__)

_COMPUTING = 2  # batches: a device finds the next one when it is done with one

_ATTEMPTS = 5
"""Processes that may end over one shard in one run: a picture that crashes the decoder would end every other one."""

TRYING = "trying"
"""The folder beside the plan with a file for each shard that a process has begun and not ended."""

FormChoice = FormName | Literal["published"]


class Job(BaseModel):
    """Everything that a process needs to score shards of a plan; it travels to other machines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    source: str
    destination: str
    registry: str
    settings: Settings


class Report(NamedTuple):
    """The outcome of a shard; with a `failure` it has no part."""

    shard: int
    images: int
    errors: int = 0
    failure: str = ""


class _Decoded(NamedTuple):
    names: list[str]
    errors: list[str | None]
    data: bytearray  # uint8 [N, C, H, W] of those without an error


def _ignore(images: int) -> None:
    del images


class Scorer:
    """A version on one device, and threads that decode for it.

    Raises:
        UnfitModelError: the version cannot be loaded.
        RegistryError: its artifact is not there, or not the one of the plan.
        SourceError: the source cannot be seen from here.
    """

    def __init__(self, job: Job, *, device: torch.device, cores: int) -> None:
        self._job = job
        self._plan = job.plan
        self._spec = cast(ImageInput, job.plan.terms.manifest.input)
        self._source = Source(job.source)
        self._destination = Destination(job.destination)
        torchscript.start()
        self._model = self._load(device, cores)
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix="decode")
        self._decoding = cores + 1  # batches: those that threads decode, and one that is ready

    def score(self, shard: int, advance: Callable[[int], None] = _ignore) -> Report:
        """Write the part of a shard, unless it is there; `advance` hears of each batch.

        What keeps the shard from being scored is reported, not raised, so that the others are.
        """
        try:
            if self._destination.has_part(shard):
                return Report(shard, 0)
            with self._attempt(shard):
                rows = self._rows(shard, advance)
                self._destination.write(rows.to_parquet(), part_name(shard))
        except (SourceError, OSError) as error:
            logger.error("shard %d: %s", shard, error)
            return Report(shard, 0, failure=str(error))
        return Report(shard, len(rows), rows.errors)

    @contextlib.contextmanager
    def _attempt(self, shard: int) -> Iterator[None]:
        """Leave a trace in the destination if this process ends meanwhile.

        Raises:
            SourceError: too many have.
        """
        begun = [name for name in self._destination.names(PLAN, TRYING) if name.partition(".")[0] == str(shard)]
        if len(begun) >= _ATTEMPTS:
            raise SourceError(f"a shard must not end the process that scores it. Given: {len(begun)} that it ended")
        name = f"{shard}.{uuid.uuid4().hex}"
        self._destination.write(b"begun\n", PLAN, TRYING, name)
        try:
            yield
        finally:
            self._destination.remove(PLAN, TRYING, name)

    def _load(self, device: torch.device, cores: int) -> Model:
        """Load the version in the form in which others have computed parts of this plan on such a device."""
        manifest = self._plan.terms.manifest
        artifact = Registry(self._job.registry).artifact(manifest)
        load = functools.partial(load_on, device, self._job.settings, manifest, artifact, cores=cores)
        name = f"form-{device.type}"
        if form := self._destination.read(PLAN, name):
            return load(form=cast(FormChoice, form.decode()))
        model = load()
        if self._destination.claim(model.form.name.encode(), PLAN, name):
            logger.info("computes in the form %s", model.form)
            return model
        return self._load(device, cores)

    def _rows(self, shard: int, advance: Callable[[int], None]) -> Rows:
        terms = self._plan.terms
        entries = self._plan.entries(self._destination, shard)
        rows = Rows(terms.manifest)
        decoding: deque[Future[_Decoded]] = deque()
        computing: deque[tuple[_Decoded, Pending | None]] = deque()
        try:
            for batch in batches(self._source, entries, size=terms.max_batch_size, max_bytes=terms.max_file_bytes):
                decoding.append(self._threads.submit(self._decode, batch))
                if len(decoding) > self._decoding:
                    self._compute(decoding, computing, rows, advance)
            while decoding:
                self._compute(decoding, computing, rows, advance)
            while computing:
                self._add(computing, rows, advance)
        finally:
            for future in decoding:
                future.cancel()
        return rows

    def _decode(self, batch: Batch) -> _Decoded:
        errors: list[str | None] = []
        data = bytearray()
        for content in batch.load():
            if isinstance(content, Unreadable):
                errors.append(content.reason)
                continue
            try:
                data += decode(content, self._spec, max_pixels=self._plan.terms.max_pixels)
            except Problem as problem:
                errors.append(problem.detail)
            else:
                errors.append(None)
        return _Decoded(batch.names, errors, data)

    def _compute(
        self,
        decoding: deque[Future[_Decoded]],
        computing: deque[tuple[_Decoded, Pending | None]],
        rows: Rows,
        advance: Callable[[int], None],
    ) -> None:
        """Start the batch that was decoded first; wait for an earlier one if a device is busy enough."""
        decoded = decoding.popleft().result()
        computing.append((decoded, self._model.start(self._model.batch(decoded.data)) if decoded.data else None))
        while len(computing) >= _COMPUTING:
            self._add(computing, rows, advance)

    def _add(
        self, computing: deque[tuple[_Decoded, Pending | None]], rows: Rows, advance: Callable[[int], None]
    ) -> None:
        decoded, pending = computing.popleft()
        outputs = outputs_of(self._model, decoded.data, pending) if pending else None
        rows.add(decoded.names, decoded.errors, outputs)
        advance(len(decoded.names))
