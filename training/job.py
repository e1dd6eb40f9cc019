"""A run as a job: it may be started again after any end, or twice at once, and does its work once.

What it leaves tells how far it came: its checkpoint, the version that it has published, the decision on that version.
Knows nothing about who starts it; a Kubernetes Job, a timer and a person are all the same.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.contract.manifest import Metric, ModelManifest
from service.contract.registry import CorruptVersionError, RegistryError
from training import pipeline
from training.data import sources
from training.data.cache import Cache
from training.errors import TrainingError, UnreachableError
from training.hyper_parameters import HyperParameters
from training.learning.progress import Progress
from training.pipeline import Outcome
from training.publishing.promotion import hold_production, promote_if_better
from training.publishing.provenance import commit, provenance
from training.publishing.publish import metrics_of, published
from training.recipes import Recipe
from training.settings import Settings

logger = logging.getLogger(__name__)

REFUSED = 3
"""The exit code of a run that the gate refused: the same run would be refused again."""

TRY_AGAIN = 75
"""The exit code of a run that may succeed if it is started again (EX_TEMPFAIL of sysexits.h)."""


class Stopped(BaseException):
    """SIGTERM came; no error, so that nothing but what cleans up stands in its way."""


@dataclass(frozen=True)
class Result:
    """What a job gave."""

    outcome: Outcome | None  # None when the version was there already
    manifest: ModelManifest | None  # None when nothing was to be published, or the gate refused it
    decision: str | None = None  # whether it was promoted, in words; None when that was not asked for

    @property
    def metrics(self) -> Sequence[Metric]:
        """What was measured of the artifact, published or not."""
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
) -> Result:
    """Train `recipe`, publish it as `publish_as` and promote it if it is better, whatever of that is still to be done.

    Another process at the same run with the same `runs_dir` is waited for; then there is nothing left to do. Elsewhere,
    both train, and the one that ends later finds the version.

    Raises:
        OptionError, TrainingError, RegistryError: as `pipeline.run`; see `exit_code`.
    """
    registry = pipeline.registry_for(settings.registry, publish_as)
    train_split = sources.load(
        data or recipe.data,
        "train",
        settings.data_dir,
        style=recipe.style,
        fit=hyper.fit,
        cache=Cache(settings.cache_dir),
    )
    code = settings.commit or commit()
    origin = provenance(recipe, hyper, train_split, commit=code, device="")
    # A checkpoint is finished by the code that began it: other code's weights would be published as this one's.
    settings = settings.model_copy(update={"runs_dir": settings.runs_dir / code, "commit": code})
    folder = settings.runs_dir / pipeline.run_name(recipe, hyper, data=data, digest=train_split.digest)
    outcome = decision = None
    with alone(folder / "lock"):
        manifest = published(registry, publish_as, origin) if registry is not None and publish_as else None
        if manifest is None:
            if registry is not None and publish_as is not None and promote:
                hold_production(registry, publish_as)
            outcome = pipeline.run(
                recipe,
                hyper,
                settings=settings,
                progress=progress,
                data=data,
                publish_as=publish_as,
                resume=True,
                once=True,
                train_split=train_split,
            )
            manifest = outcome.manifest
        if registry is not None and manifest is not None and promote:
            decision = promote_if_better(registry, manifest)
    return Result(outcome, manifest, decision)


def exit_code(error: TrainingError | RegistryError) -> int:
    """What a job that `error` ended exits with: whether the same run might succeed another time."""
    if isinstance(error, CorruptVersionError):
        return TrainingError.exit_code
    if isinstance(error, RegistryError | UnreachableError):
        return TRY_AGAIN
    return error.exit_code


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Inside the block no other process has `file`, wherever its folder is mounted; the death of one frees it."""
    import fcntl  # not on Windows, where the rest of the package may be imported

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a")
    except OSError as error:
        raise TrainingError(f"runs_dir must be a folder to write to. Given: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is at this run: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise TrainingError(f"runs_dir must be on a file system that locks files. Given: {error}") from error
        yield


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises `Stopped`, once; the first process of a container would ignore it."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
