"""Publish a version's artifact once more, with evidence for its forms measured on this machine."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import torch

from service.contract.manifest import Artifact, ModelManifest
from service.contract.registry import NotInRegistryError, Registry
from training.data import sources
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.publishing.card import republished
from training.publishing.equivalence import equivalence
from training.publishing.evaluate import logits_of
from training.publishing.export import load
from training.publishing.publish import EVALUATION
from training.publishing.report import CARD

logger = logging.getLogger(__name__)

_FILES = (EVALUATION, "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png")

_ACCURACY_TOLERANCE = 0.0005
"""Another machine sums in another order, which can change the class of an input that lies between two."""


def republish(registry: Registry, name: str, *, data_dir: Path, device: torch.device) -> ModelManifest:
    """Publish the served version of `name` as its next one; only what says which forms may serve is measured again.

    Artifact, metrics, golden sample, provenance and pictures stay as they were.

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
    logger.info("comparing the forms of %s@%d on %s (n=%d)", name, before.version, test.title, len(test))
    forms, half_precision = equivalence(artifact, device, test)

    def describe(version: int, file: Artifact) -> ModelManifest:
        changes = {"version": version, "created": datetime.now(UTC), "artifact": file}
        return before.model_copy(update={**changes, "forms": forms, "half_precision": half_precision})

    def files(manifest: ModelManifest) -> dict[str, bytes]:
        return {CARD: republished(card, before, manifest).encode(), **_copied(registry, before)}

    return registry.publish(name, artifact, describe, files=files)


def _test_split(manifest: ModelManifest, data_dir: Path) -> Dataset:
    """Load the split that the version's first metric was measured on."""
    if not manifest.metrics or manifest.input.kind != "image":
        raise TrainingError(
            f"only an image model with metrics has forms to compare. Given: {manifest.name}@{manifest.version}"
        )
    source, _, split = manifest.metrics[0].data.rpartition("/")
    return sources.load(source, split, data_dir)


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
