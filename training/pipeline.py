"""A training run from top to bottom: load data, train, export, evaluate, publish."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from service.contract.manifest import ModelManifest, Provenance
from service.contract.registry import CorruptVersionError, NotInRegistryError, Registry
from training.data import sources
from training.data.batches import Feed
from training.data.cache import Cache
from training.data.dataset import Dataset
from training.errors import OptionError, TrainingError
from training.hyper_parameters import HyperParameters
from training.learning import device as devices
from training.learning.checkpoint import Checkpoints
from training.learning.distributed import World
from training.learning.divergence import diverged
from training.learning.progress import Progress
from training.learning.tensorboard import BoardProgress, Details, log_measurements
from training.learning.trainer import ALONE, EpochResult, train
from training.publishing import abstention
from training.publishing.destination import (
    expect_outside,
    expect_writable,
    expect_writable_registry,
    registry_for,
)
from training.publishing.equivalence import UNTESTED, equivalence
from training.publishing.evaluate import Evaluation, evaluate, expect_finite, logits_of
from training.publishing.export import Exported, On, check, export, load
from training.publishing.latency import latencies
from training.publishing.provenance import commit, provenance, same_held_out
from training.publishing.publish import golden_sample, input_spec, publish, published
from training.publishing.quality_gate import has_floor, refusal, too_few_to_tell
from training.publishing.report import Report, command, example
from training.publishing.robustness import Robustness, robustness
from training.publishing.sharpening import fit as sharpening_for
from training.recipe import Recipe
from training.recipes import expect
from training.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    hyper: HyperParameters
    history: list[EpochResult]
    evaluation: Evaluation  # of the exported artifact, on the test split
    others: tuple[Evaluation, ...]  # on the recipe's other splits whose files are there
    held_out: Evaluation | None  # of the same, on the training examples that the temperature was fitted on
    training_seconds: float
    example: Path | tuple[float, ...] | None  # the first test input: a file with the image, or the features
    expected: float | None = None  # accuracy on the test split, if that is the recipe's
    trouble: str | None = None  # that the run diverged, with both losses
    manifest: ModelManifest | None = None  # None when nothing was published
    refusal: str | None = None  # why the quality gate refused to publish it

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All evaluations, that on the test split first."""
        return (self.evaluation, *self.others, *([] if self.held_out is None else [self.held_out]))


def run(
    recipe: Recipe,
    hyper: HyperParameters,
    *,
    settings: Settings,
    progress: Progress,
    data: str | None = None,
    publish_as: str | None = None,
    force: bool = False,
    resume: bool = False,
    once: bool = False,
    train_split: Dataset | None = None,
    world: World = ALONE,
) -> Outcome:
    """Train `recipe` with `hyper` on its data, or on `data`, and publish it when `publish_as` names a model.

    With `force`, a model that the quality gate refuses is published and its manifest says so. With `resume` the run
    continues from its checkpoint, if there is one. With `once` it returns the version that the same run published
    elsewhere in the meantime, instead of publishing another. `train_split` is the training data if it is loaded
    already. When several processes train together, each calls this; all measure the same network, and only one is told
    to publish.

    Raises:
        OptionError: an option cannot be satisfied; nothing was trained.
        TrainingError: the data is missing, the loss is not finite, or the artifact is not the network.
        RegistryError: the registry cannot be read or written.
    """
    device = world.place(devices.choose(settings.device))
    recipe.expect_start(hyper)
    augmentation = recipe.variation(hyper)
    if publish_as is not None:
        expect_outside(data, settings.registry, "registry")
    if publish_as is not None and not once:  # a job tries again when its registry is away
        expect_writable_registry(settings.registry)
    registry = registry_for(settings.registry, publish_as, sign=settings.sign)
    expect_writable(settings.runs_dir, "runs_dir")
    whole = train_split or load_split(recipe, hyper, "train", data=data, settings=settings)
    expect(recipe, whole, hyper)
    if not settings.workers and devices.has_room_for(device, whole.inputs.nbytes):
        whole = whole.to(device)
    test_split, *other_splits = recipe.splits if data in (None, recipe.data) else ("test",)
    test_data = load_split(recipe, hyper, test_split, data=data, settings=settings)
    if publish_as is not None and not force and data not in (None, recipe.data) and (few := too_few_to_tell(test_data)):
        raise OptionError(few)
    own = sources.is_own(data or "")
    if own and whole.images and world.leads and (seen := test_data.shared_with(whole)):
        logger.warning(
            "%d of the %d pictures of %s are among those to train on: its figures will be too good",
            *(seen, len(test_data), test_data.title),
        )
    train_data, held_out = whole.hold_out(hyper.held_out) if hyper.held_out else (whole, None)
    together = f" in {world.size} processes" if world.size > 1 else ""
    if world.leads:
        where = devices.describe(device) + together
        logger.info("%s, %s, on %s", train_data.title, _counted(train_data, held_out), where)

    torch.manual_seed(hyper.seed)
    network = recipe.build(train_data, activation=hyper.activation).to(device)
    preprocessing = recipe.preprocessing(train_data).to(device)
    if world.leads:
        logger.info("%s", network)

    folder = settings.runs_dir / run_name(recipe, hyper, data=data, digest=whole.digest)
    checkpoints = Checkpoints(folder, seconds=settings.checkpoint_seconds, resume=resume, world=world)
    details = Details(preprocessing, network, train_data) if settings.tensorboard_details else None
    board = BoardProgress(progress, folder, resume=resume, details=details) if world.leads else progress
    with checkpoints, board as shown:
        history = train(
            network,
            preprocessing,
            data=train_data,
            hyper=hyper,
            progress=shown,
            augmentation=augmentation,
            checkpoints=checkpoints,
            world=world,
            feed=Feed(device, settings.workers, settings.pin_memory),
            held_out=held_out,
        )
    training_seconds = sum(epoch.seconds for epoch in history)

    model = Exported(preprocessing, network)
    artifact = export(model)
    # What is recorded is measured on what is served: the artifact, read back from its bytes.
    classifier = load(artifact, device)
    others = list(_others(recipe, other_splits, settings))
    temperature, sharpening, known = hyper.temperature, None, abstention.Abstention(artifact)
    if held_out is not None:
        sent, ways = recipe.calibration_data(held_out, (test_data, *others))
        logits = logits_of(classifier, sent.inputs)
        expect_finite(logits, sent)
        temperature, sharpening = sharpening_for(logits, sent.labels, ways=ways)
        known = abstention.learn(
            artifact, train_data, sent, ways=ways, temperature=temperature, sharpening=sharpening, device=device
        )
        classifier = load(known.artifact, device)
    evaluation = evaluate(classifier, test_data, temperature=temperature)
    of_held_out = evaluate(classifier, held_out, temperature=temperature) if held_out is not None else None
    of_others = tuple(evaluate(classifier, other, temperature=temperature) for other in others)
    trouble = diverged(history, train_data, hyper)
    asked = _example(test_data, folder) if world.leads else None
    expected = recipe.expected if has_floor(recipe, evaluation.data, own=own) else None
    outcome = Outcome(hyper, history, evaluation, of_others, of_held_out, training_seconds, asked, expected, trouble)
    if world.leads:
        log_measurements(folder, _scalars(outcome.evaluations), epoch=history[-1].epoch)

    manifest = refused = None
    robust: list[Robustness] = []
    if registry is not None and publish_as is not None:
        origin = provenance(
            recipe,
            hyper,
            whole,
            commit=settings.commit or commit(),
            device=devices.describe(device) + together,
            seconds=training_seconds,
        )
        manifest = published(registry, publish_as, origin, whole) if once else None
        production = _production(registry, publish_as, origin)
        if manifest is None:
            robust = [
                measured
                for split in (test_data, *([held_out] if held_out is not None else []))
                if (measured := robustness(classifier, split)) is not None
            ]
            refused = refusal(
                evaluation,
                recipe=recipe,
                production=production,
                tolerance=settings.tolerance,
                own=own,
                held_out=of_held_out,
                robustness=next(
                    (measured for measured in robust if held_out and measured.data == held_out.title), None
                ),
            )
    if registry is not None and publish_as is not None and manifest is None and (force or not refused):
        check(On(model, device), load(artifact, device), test_data.inputs)
        forms = equivalence(known, device, test_data) if whole.images else UNTESTED
        splits = (test_data, *others)
        abstentions = [
            metric
            for split in splits
            for metric in abstention.metrics_of(known, split, temperature=temperature, device=device)
        ]
        report = Report(
            recipe=recipe,
            command=command(recipe, hyper, data, name=publish_as),
            evaluations=outcome.evaluations,
            test=test_data,
            history=history,
            latencies=latencies(classifier, test_data.inputs),
            robustness=robust,
            sharpening=sharpening,
        )
        manifest = publish(
            registry,
            publish_as,
            known=known,
            golden=golden_sample(known, test_data, device),
            foreign=list(
                abstention.compare(
                    known,
                    test_data,
                    input_spec(test_data),
                    settings.data_dir,
                    device,
                    cache=Cache(settings.cache_dir),
                )
            ),
            more=[*abstentions, *(metric for measured in robust for metric in measured.metrics)],
            equivalence=forms,
            test=test_data,
            evaluations=outcome.evaluations,
            provenance=origin,
            report=report.files,
            forced=refused,
        )
    return replace(outcome, manifest=manifest, refusal=refused)


def load_split(recipe: Recipe, hyper: HyperParameters, split: str, *, data: str | None, settings: Settings) -> Dataset:
    """Load a split of the recipe's data, or of `data`, as `hyper` says that its pictures become inputs.

    Raises:
        OptionError, TrainingError: as `sources.load`.
    """
    expect_outside(data, str(settings.runs_dir), "runs_dir")
    return sources.load(
        data or recipe.data,
        split,
        settings.data_dir,
        style=recipe.style,
        fit=hyper.fit,
        size=hyper.size,
        cache=Cache(settings.cache_dir),
    )


def run_name(recipe: Recipe, hyper: HyperParameters, *, data: str | None, digest: str) -> str:
    """Return a name that is unique to this recipe, these hyper-parameters and this data."""
    kind = (data or recipe.data).partition(":")[0]
    identity = f"{recipe.name} {hyper.model_dump_json()} {digest}"
    return f"{recipe.name}-{kind}-seed{hyper.seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _counted(train_data: Dataset, held_out: Dataset | None) -> str:
    apart = f" and {len(held_out):,} held out" if held_out is not None else ""
    return f"{len(train_data):,} examples{apart}"


def _scalars(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Return what TensorBoard shows of each evaluation, by its split."""
    return {
        f"{evaluation.data.rpartition('/')[2]}/{name}": value
        for evaluation in evaluations
        for name, value in (
            ("loss", evaluation.loss),
            ("accuracy", evaluation.accuracy),
            ("calibration_error", evaluation.calibrated.ece),
            ("calibration_error_bound", evaluation.calibrated.ece_bound),
        )
    }


def _example(test: Dataset, folder: Path) -> Path | tuple[float, ...] | None:
    """Return the first test input, an image as a file in `folder`; None if that cannot be written."""
    if not test.images:
        return tuple(test.inputs[0].tolist())
    file = folder / "example.png"
    try:
        file.write_bytes(example(test))
    except OSError as error:
        logger.warning("no example to ask the service about: %s", error)
        return None
    return file


def _others(recipe: Recipe, splits: Iterable[str], settings: Settings) -> Iterator[Dataset]:
    """Yield the recipe's other splits whose files exist."""
    for split in splits:
        try:
            yield sources.load(recipe.data, split, settings.data_dir, cache=Cache(settings.cache_dir))
        except TrainingError as error:
            logger.info("not measured on %s/%s: %s", recipe.data, split, error)


def _production(registry: Registry, name: str, origin: Provenance) -> ModelManifest | None:
    """Return the manifest of the served version of `name`; None if none can be read, or it held other examples out."""
    try:
        served = registry.manifest(name, registry.resolve(name))
    except NotInRegistryError:
        return None
    except CorruptVersionError as error:
        logger.warning("nothing to compare with: %s", error)
        return None
    if not same_held_out(served.provenance, origin):
        logger.info("not compared with %s@%d in production, which held other examples out", name, served.version)
        return None
    return served
