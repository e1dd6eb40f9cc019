"""A run as a job that does its work once, however often it is started, or twice at the same time.

Its checkpoint, its published version and the decision about promotion record how far it got. Knows nothing about who
starts it: a Kubernetes Job, a timer or a person.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from service.contract.manifest import Metric, ModelManifest
from service.contract.registry import CorruptVersionError, RegistryError
from training import pipeline
from training.adaptation import adapt
from training.data import sources
from training.errors import DivergedError, OptionError, TrainingError, UnreachableError
from training.hyper_parameters import HyperParameters
from training.learning.distributed import World
from training.learning.progress import Progress
from training.learning.run_lock import turn
from training.learning.trainer import ALONE
from training.pipeline import Outcome
from training.publishing.destination import registry_for
from training.publishing.promotion import hold_production, promote_if_better
from training.publishing.provenance import commit, provenance
from training.publishing.publish import metrics_of, published
from training.recipe import Recipe
from training.settings import Settings

logger = logging.getLogger(__name__)

REFUSED = 3
"""The exit code of a run that diverged or that the quality gate refused, as it would again."""

TRY_AGAIN = 75
"""The exit code of a run that may succeed if it is started again (EX_TEMPFAIL of sysexits.h)."""


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, so that only cleanup code handles it."""


@dataclass(frozen=True)
class Result:
    """The result of a job."""

    outcome: Outcome | None  # None when the version was there already
    manifest: ModelManifest | None  # None when nothing was to be published, or the gate refused it
    decision: str | None = None  # whether it was promoted, in words; None when that was not asked for

    @property
    def metrics(self) -> Sequence[Metric]:
        """The measurements of the artifact, published or not."""
        if self.manifest is not None:
            return self.manifest.metrics
        measured = self.outcome.evaluations if self.outcome is not None else ()
        return [metric for evaluation in measured for metric in metrics_of(evaluation)]


def run(
    recipe: Recipe,
    hyper: HyperParameters,
    *,
    settings: Settings,
    progress: Progress,
    data: str | None = None,
    publish_as: str | None = None,
    promote: bool = False,
    world: World = ALONE,
    chosen: Collection[str] = (),
) -> Result:
    """Do the missing steps: train `recipe`, publish it as `publish_as`, promote it if it is better.

    When several processes train together, each calls this; only the first takes turns, publishes and promotes.
    Hyper-parameters that were not `chosen` are adapted to the user's own data.

    A process doing the same run with the same `runs_dir` is waited for, after which nothing is left to do. With another
    `runs_dir` both train, and the one that ends later finds the version.

    Raises:
        OptionError, TrainingError, RegistryError: as `pipeline.run`; see `exit_code`.
    """
    registry = registry_for(settings.registry, publish_as, sign=settings.sign)
    train_split = pipeline.load_split(recipe, hyper, "train", data=data, settings=settings)
    if data is not None and sources.is_own(data):
        hyper = adapt(hyper, train_split, chosen=chosen)
    if promote and not hyper.held_out:
        raise OptionError(
            "promote_if_better must be given with held_out above 0: versions are compared on held-out data. Given: 0"
        )
    code = settings.commit or commit()
    origin = provenance(recipe, hyper, train_split, commit=code, device="")
    # A checkpoint is finished by the code that began it: other code's weights would be published as this one's.
    settings = settings.model_copy(update={"runs_dir": settings.runs_dir / code, "commit": code})
    folder = settings.runs_dir / pipeline.run_name(recipe, hyper, data=data, digest=train_split.digest)
    outcome = decision = None
    with contextlib.ExitStack() as held:

        def begin() -> ModelManifest | None:
            held.enter_context(turn(folder / "lock"))
            if registry is None or publish_as is None:
                return None
            found = published(registry, publish_as, origin, train_split)
            if found is None and promote:
                hold_production(registry, publish_as)
            return found

        manifest = world.first(begin)
        if manifest is None:
            outcome = pipeline.run(
                recipe,
                hyper,
                settings=settings,
                progress=progress,
                data=data,
                publish_as=publish_as if world.leads else None,
                resume=True,
                once=True,
                train_split=train_split,
                world=world,
            )
            manifest = outcome.manifest
        if registry is not None and manifest is not None and promote and world.leads:
            decision = promote_if_better(registry, manifest)
    return Result(outcome, manifest, decision)


def exit_code(error: TrainingError | RegistryError) -> int:
    """Return the exit code for `error`, which says whether the same run may succeed later."""
    if isinstance(error, CorruptVersionError):
        return TrainingError.exit_code
    if isinstance(error, RegistryError | UnreachableError):
        return TRY_AGAIN
    return REFUSED if isinstance(error, DivergedError) else error.exit_code


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise `Stopped` on the first SIGTERM inside the block. A container's first process would ignore the signal."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
