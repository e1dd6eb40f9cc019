"""Publish a version's network once more, with what this code measures beside it that the version does not have yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from service.contract.manifest import Artifact, ModelManifest
from service.contract.registry import NotInRegistryError, Registry
from training.data import sources
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.publishing import abstention
from training.publishing.abstention import Abstention
from training.publishing.card import republished
from training.publishing.equivalence import equivalence
from training.publishing.evaluate import logits_of
from training.publishing.export import load
from training.publishing.publish import EVALUATION, golden_sample
from training.publishing.report import CARD
from training.recipes import RECIPES

logger = logging.getLogger(__name__)

_FILES = (EVALUATION, "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png")

_ACCURACY_TOLERANCE = 0.0005
"""Another machine sums in another order, which can change the class of an input that lies between two."""


def republish(registry: Registry, name: str, *, data_dir: Path, device: torch.device) -> ModelManifest:
    """Publish the served version of `name` as its next one, with evidence for its forms measured here.

    A version that cannot tell outliers learns to, if it held out some of its training data, and one without the
    distributions of its predictions gets them; for both, the training data must be here. Weights, logits, accuracy,
    provenance and pictures stay as they were.

    Raises:
        ValueError: the version's card is not one that training wrote.
        TrainingError: the data that the version was measured on is not here, or gives it another accuracy.
        RegistryError: the registry cannot be read or written.
    """
    before = registry.manifest(name, registry.resolve(name))
    test = _test_split(before, data_dir)
    artifact = registry.artifact(before)
    _expect_same_accuracy(before, artifact, test, device)
    card = registry.file(name, before.version, CARD).decode()
    republished(card, before, before)  # before minutes of measuring, what would fail after them
    known = Abstention(artifact, before.outliers, before.sets, before.distributions)
    learnt: Mapping[str, Any] = {}
    if before.outliers is None and before.provenance.hyper_parameters.get("held_out"):
        known, learnt = _learn(before, artifact, test, data_dir, device)
    elif before.outliers is not None and before.distributions is None:
        _, sent = _training_data(before, test, data_dir)
        learnt = {"distributions": abstention.watch(known, sent, temperature=before.temperature, device=device)}
    logger.info("comparing the forms of %s@%d on %s (n=%d)", name, before.version, test.title, len(test))
    forms, half_precision = equivalence(known, device, test)

    def describe(version: int, file: Artifact) -> ModelManifest:
        changes = {"version": version, "created": datetime.now(UTC), "artifact": file, **learnt}
        changed = before.model_copy(update={**changes, "forms": forms, "half_precision": half_precision})
        return ModelManifest.model_validate(changed.model_dump())

    def files(manifest: ModelManifest) -> dict[str, bytes]:
        return {CARD: republished(card, before, manifest).encode(), **_copied(registry, before)}

    return registry.publish(name, known.artifact, describe, files=files)


def _learn(
    before: ModelManifest, artifact: bytes, test: Dataset, data_dir: Path, device: torch.device
) -> tuple[Abstention, Mapping[str, Any]]:
    """Return the artifact with outlier scores, and what they change in its manifest."""
    train, sent = _training_data(before, test, data_dir)
    source = before.provenance.dataset.rpartition("/")[0]
    logger.info("learning what is foreign to %s@%d", before.name, before.version)
    known = abstention.learn(artifact, train, sent, temperature=before.temperature, device=device)
    if known.outliers is None:
        return known, {}
    inputs = test.inputs[:256]
    if not torch.equal(logits_of(load(artifact, device), inputs), logits_of(load(known.artifact, device), inputs)):
        raise TrainingError("the network must give the logits that it gave without scores. Given: others")
    titles = dict.fromkeys(metric.data for metric in before.metrics if metric.name == "accuracy")
    splits = [
        test,
        *(sources.load(source, title.rpartition("/")[2], data_dir) for title in titles if _is_other(title, test)),
    ]
    abstentions = [
        metric
        for data in splits
        for metric in abstention.metrics_of(known, data, temperature=before.temperature, device=device)
    ]
    return known, {
        "schema_version": 2,
        "outliers": known.outliers,
        "sets": known.sets,
        "distributions": known.distributions,
        "foreign": tuple(abstention.compare(known, test, before.input, data_dir, device)),
        "metrics": (*before.metrics, *abstentions),
        "golden": golden_sample(known, test, device),
    }


def _training_data(before: ModelManifest, test: Dataset, data_dir: Path) -> tuple[Dataset, Dataset]:
    """Return what a version was trained on, and what it held out of that, as clients would send it.

    Raises:
        TrainingError: the data is not here, or is other data.
    """
    source, _, split = before.provenance.dataset.rpartition("/")
    whole = sources.load(source, split, data_dir, style=test.style)
    if whole.digest != before.provenance.dataset_digest:
        raise TrainingError(
            f"{whole.title} must be what {before.name}@{before.version} was trained on, "
            f"{before.provenance.dataset_digest[:12]}. Given: {whole.digest[:12]}"
        )
    train, held_out = whole.hold_out(float(str(before.provenance.hyper_parameters["held_out"])))
    recipe = RECIPES.get(before.provenance.recipe)
    return train, (recipe.as_sent(held_out) if recipe is not None else held_out)


def _is_other(title: str, test: Dataset) -> bool:
    return title != test.title and not title.endswith("/held-out")


def _test_split(manifest: ModelManifest, data_dir: Path) -> Dataset:
    """Load the split that the version's first metric was measured on."""
    if not manifest.metrics or manifest.input.kind != "image":
        raise TrainingError(
            f"only an image model with metrics has forms to compare. Given: {manifest.name}@{manifest.version}"
        )
    source, _, split = manifest.metrics[0].data.rpartition("/")
    return sources.load(source, split, data_dir, style=manifest.input.style)


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
