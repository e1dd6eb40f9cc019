"""Publish a version's network once more, with everything that this code measures and sets on data of its own.

The network, its logits, its accuracy and where it came from stay; temperature, thresholds and evidence are those that a
run of this code would publish.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from service.contract.manifest import Artifact, ModelManifest, Style
from service.contract.registry import NotInRegistryError, Registry
from training.data import sources
from training.data.cache import NO_CACHE, Cache
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.publishing import abstention
from training.publishing.abstention import Abstention
from training.publishing.card import Measurements, republished
from training.publishing.equivalence import equivalence
from training.publishing.evaluate import Evaluation, evaluate, logits_of
from training.publishing.export import features_of, load
from training.publishing.publish import EVALUATION, evaluation_file, golden_sample, input_spec, metrics_of
from training.publishing.report import CARD
from training.publishing.robustness import robustness
from training.publishing.sharpening import fit as sharpening_for
from training.recipes import RECIPES

logger = logging.getLogger(__name__)

_FILES = (EVALUATION, "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png")

_ACCURACY_TOLERANCE = 0.0005
"""Another machine sums in another order, which can change the class of an input that lies between two."""


def republish(
    registry: Registry, name: str, *, data_dir: Path, device: torch.device, cache: Cache = NO_CACHE
) -> ModelManifest:
    """Publish the served version of `name` as its next one, with all evidence measured here.

    What was set on held-out examples (temperature, outlier scores and their threshold, prediction sets, distributions)
    is set again, for which the training data must be here; a version that held nothing out has its forms compared
    alone. Weights, logits, accuracy, provenance and pictures stay as they were.

    Raises:
        ValueError: the version's card is not one that training wrote.
        TrainingError: the data that the version was trained or measured on is not here, or gives another accuracy.
        RegistryError: the registry cannot be read or written.
    """
    before = registry.manifest(name, registry.resolve(name))
    splits = _Splits(data_dir, cache)
    test = _test_split(before, splits)
    artifact = registry.artifact(before)
    _expect_same_accuracy(before, artifact, test, device)
    card = registry.file(name, before.version, CARD).decode()
    republished(card, before, before)  # before minutes of measuring, what would fail after them
    known = Abstention(artifact, before.outliers, before.sets, before.distributions)
    changes: Mapping[str, Any] = {}
    sections = None
    copied = _copied(registry, before)
    if before.provenance.hyper_parameters.get("held_out"):
        logger.info("measuring %s@%d on all of its data", name, before.version)
        measured = _measure(before, artifact, test, splits, device)
        known, changes, sections = measured.known, measured.changes, measured.sections
        copied[EVALUATION] = evaluation_file(measured.evaluations[0])
    logger.info("comparing the forms of %s@%d on %s (n=%d)", name, before.version, test.title, len(test))
    forms, half_precision = equivalence(known, device, test)

    def describe(version: int, file: Artifact) -> ModelManifest:
        replaced = {"version": version, "created": datetime.now(UTC), "artifact": file, **changes}
        changed = before.model_copy(update={**replaced, "forms": forms, "half_precision": half_precision})
        return ModelManifest.model_validate(changed.model_dump())

    def files(manifest: ModelManifest) -> dict[str, bytes]:
        return {**copied, CARD: republished(card, before, manifest, sections).encode()}

    return registry.publish(name, known.artifact, describe, files=files)


@dataclass(frozen=True)
class _Splits:
    """The datasets in a folder, decoded once."""

    folder: Path
    cache: Cache

    def load(self, source: str, split: str, *, style: Style = "photo") -> Dataset:
        """Load a split; raises as `sources.load`."""
        return sources.load(source, split, self.folder, style=style, cache=self.cache)


@dataclass(frozen=True)
class _Measured:
    """What this code sets and measures of an artifact."""

    known: Abstention
    changes: Mapping[str, Any]  # of the manifest
    evaluations: Sequence[Evaluation]  # that on the test split first
    sections: Measurements  # of the card


def _measure(before: ModelManifest, artifact: bytes, test: Dataset, splits: _Splits, device: torch.device) -> _Measured:
    """Set and measure of an artifact what a run does of a network that it has trained."""
    train, held_out = _training_data(before, test, splits)
    source = before.provenance.dataset.rpartition("/")[0]
    titles = dict.fromkeys(metric.data for metric in before.metrics if metric.name == "accuracy")
    others = [splits.load(source, title.rpartition("/")[2]) for title in titles if _is_other(title, test)]
    recipe = RECIPES.get(before.provenance.recipe)
    sent, ways = (held_out, 1) if recipe is None else recipe.calibration_data(held_out, (test, *others))
    altered = recipe.sent if recipe is not None else None
    logits = features_of(artifact, sent.inputs, device).logits
    temperature, sharpening = sharpening_for(logits, sent.labels, ways=ways)
    known = abstention.learn(
        artifact, train, sent, ways=ways, temperature=temperature, sharpening=sharpening, device=device
    )
    before_and_now = (features_of(each, test.inputs[:256], device).logits for each in (artifact, known.artifact))
    if not torch.equal(*before_and_now):
        raise TrainingError("the network must give the logits that it gave without scores. Given: others")
    classifier = load(known.artifact, device)
    evaluations = [evaluate(classifier, split, temperature=temperature) for split in (test, *others, held_out)]
    robust = [found for split in (test, held_out) if (found := robustness(classifier, split)) is not None]
    metrics = [metric for evaluation in evaluations for metric in metrics_of(evaluation)]
    for split in (test, *others):
        metrics += abstention.metrics_of(known, split, temperature=temperature, device=device)
    metrics += [metric for found in robust for metric in found.metrics]
    changes = {
        "schema_version": 1 if known.outliers is None else 2,
        "temperature": temperature,
        "outliers": known.outliers,
        "sets": known.sets,
        "distributions": known.distributions,
        "foreign": tuple(abstention.compare(known, test, before.input, splits.folder, device, cache=splits.cache)),
        "metrics": tuple(metrics),
        "golden": golden_sample(known, test, device),
    }
    return _Measured(known, changes, evaluations, Measurements(evaluations, robust, altered, sharpening))


def _training_data(before: ModelManifest, test: Dataset, splits: _Splits) -> tuple[Dataset, Dataset]:
    """Return what a version was trained on, and what it held out of that.

    Raises:
        TrainingError: the data is not here, or is other data.
    """
    source, _, split = before.provenance.dataset.rpartition("/")
    whole = splits.load(source, split, style=test.style)
    if whole.digest != before.provenance.dataset_digest:
        raise TrainingError(
            f"{whole.title} must be what {before.name}@{before.version} was trained on, "
            f"{before.provenance.dataset_digest[:12]}. Given: {whole.digest[:12]}"
        )
    return whole.hold_out(float(str(before.provenance.hyper_parameters["held_out"])))


def _is_other(title: str, test: Dataset) -> bool:
    return title != test.title and not title.endswith("/held-out")


def _test_split(manifest: ModelManifest, splits: _Splits) -> Dataset:
    """Load the split that the version's first metric was measured on."""
    if not manifest.metrics or manifest.input.kind != "image":
        raise TrainingError(
            f"only an image model with metrics has forms to compare. Given: {manifest.name}@{manifest.version}"
        )
    source, _, split = manifest.metrics[0].data.rpartition("/")
    version = f"{manifest.name}@{manifest.version}"
    if source not in sources.SOURCES:
        raise TrainingError(
            f"only a version of one of the data sets {', '.join(sources.SOURCES)} can be published again. "
            f"Given: {version}, of {source}"
        )
    test = splits.load(source, split, style=manifest.input.style)
    if (test.classes, input_spec(test).shape) != (manifest.classes, manifest.input.shape):
        raise TrainingError(
            f"{test.title} must be what {version} was measured on. Given: other classes, or inputs of another shape"
        )
    return test


def _expect_same_accuracy(manifest: ModelManifest, artifact: bytes, test: Dataset, device: torch.device) -> None:
    published = next(metric for metric in manifest.metrics if metric.name == "accuracy")
    classes = logits_of(load(artifact, device), test.inputs).argmax(1)
    found = (classes == test.labels).double().mean().item()
    if len(test) != published.n or abs(found - published.value) > _ACCURACY_TOLERANCE:
        raise TrainingError(
            f"{test.title} must give {manifest.name}@{manifest.version} its published accuracy, {published.value:.2%} "
            f"of {published.n:,}. Given: {found:.2%} of {len(test):,}"
        )


def _copied(registry: Registry, manifest: ModelManifest) -> dict[str, bytes]:
    """Return the files beside the artifact that are true of the new version too."""
    found = {}
    for file in _FILES:
        try:
            found[file] = registry.file(manifest.name, manifest.version, file)
        except NotInRegistryError:
            continue
    return found
