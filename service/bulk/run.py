"""The course of a scoring run: agree on the plan, score what is missing, and mark the destination when all is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import fsspec

from service.bulk.destination import PLAN, SUCCESS, Destination
from service.bulk.plan import Plan, PlanError, Terms, agree
from service.bulk.scoring import TRYING, Job, Report
from service.bulk.sources import Source
from service.contract.manifest import ModelManifest
from service.settings import Settings

Engine = Callable[[Job, Iterable[int], Callable[[int], None]], Iterator[Report]]
"""Scores shards, reports each, and tells the function of images as they are computed."""


class Work(NamedTuple):
    """A plan, which of its shards have no part yet, and the endings of the files that are in no plan."""

    job: Job
    missing: list[int]
    passed_over: Counter[str]

    @property
    def plan(self) -> Plan:
        return self.job.plan


class Result(NamedTuple):
    """The outcome of a run: images and errors that it added, and why shards are still missing."""

    images: int
    errors: int
    missing: list[int]
    failures: list[str]


def prepare(source: str, destination: str, manifest: ModelManifest, settings: Settings, *, shard_size: int) -> Work:
    """Plan, or check that the plan is still the same, and look which parts are there.

    Raises:
        PlanError, SourceError, OSError: see `plan.agree`.
    """
    images, results = Source(source), Destination(destination)
    if images.holds(results.url):
        raise PlanError(f"--out must lie outside SOURCE, which it would change. Given: {destination}, in {source}")
    terms = Terms(
        source=images.url,
        kind=images.kind,
        manifest=manifest,
        form=settings.form,
        max_batch_size=settings.max_batch_size,
        max_pixels=settings.max_pixels,
        max_file_bytes=settings.max_body_bytes,
        shard_size=shard_size,
    )
    plan = agree(results, images, terms)
    fs, registry = fsspec.url_to_fs(settings.registry)
    # Absolute, all three: a process on another machine starts in another folder.
    places = {"source": images.url, "destination": results.url, "registry": fs.unstrip_protocol(registry)}
    job = Job(plan=plan, settings=settings, **places)
    return Work(job, _missing(results, plan), images.passed_over)


def finish(work: Work, engine: Engine, advance: Callable[[int], None]) -> Result:
    """Score what is missing; what is in the destination afterwards decides whether the plan is done.

    Raises:
        What the engine raises if it cannot go on; the parts that are there stay.
    """
    results = Destination(work.job.destination)
    images = errors = 0
    failures = []
    if work.missing:
        results.remove(SUCCESS)  # a part was deleted since
        results.remove(PLAN, TRYING)  # each run has its own attempts
        for report in engine(work.job, work.missing, advance):
            images += report.images
            errors += report.errors
            if report.failure:
                failures.append(f"shard {report.shard}: {report.failure}")
    missing = _missing(results, work.plan)
    if not missing:
        results.tidy()
        results.write(f"{work.plan.sha256}\n".encode(), SUCCESS)
    return Result(images, errors, missing, failures)


def _missing(results: Destination, plan: Plan) -> list[int]:
    parts = results.parts()
    return [shard for shard in range(plan.shards) if shard not in parts]
