"""From an artifact and what was measured on it to a version in the registry, with its manifest.

Knows nothing about how the model was trained; it is told.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

from torch import Tensor, nn

from service.contract.manifest import (
    Artifact,
    FeatureInput,
    GoldenSample,
    ImageInput,
    Metric,
    ModelManifest,
    Provenance,
    pack_floats,
)
from service.contract.registry import CorruptVersionError, Registry
from service.contract.variants import FormName
from training.data.dataset import Dataset
from training.publishing.evaluate import Evaluation, logits_of
from training.publishing.export import LOGIT_TOLERANCE
from training.publishing.provenance import same_run

GOLDEN_INPUTS = 8
EVALUATION = "evaluation.json"


def publish(
    registry: Registry,
    name: str,
    *,
    artifact: bytes,
    golden: GoldenSample,
    forms: tuple[FormName, ...] = (),
    test: Dataset,
    evaluations: Sequence[Evaluation],
    provenance: Provenance,
    report: Callable[[ModelManifest], Mapping[str, bytes]] | None = None,
    forced: str | None = None,
) -> ModelManifest:
    """Write the next version of the model `name` and return its manifest; the first of `evaluations` is the test's.

    `forms` are those that were proved to agree. `report` makes the files for people. `forced` is what the gate refused
    it for, when it is published all the same.

    Raises:
        RegistryError: the registry cannot be written; then there is no new version.
    """

    def describe(version: int, file: Artifact) -> ModelManifest:
        return ModelManifest(
            name=name,
            version=version,
            created=datetime.now(UTC),
            artifact=file,
            input=input_spec(test),
            classes=test.classes,
            temperature=evaluations[0].calibrated.temperature,
            metrics=tuple(metric for evaluation in evaluations for metric in metrics_of(evaluation)),
            golden=golden,
            forms=forms,
            provenance=provenance,
            forced=forced,
        )

    def files(manifest: ModelManifest) -> dict[str, bytes]:
        return {EVALUATION: evaluation_file(evaluations[0]), **(report(manifest) if report is not None else {})}

    return registry.publish(name, artifact, describe, files=files)


def published(registry: Registry, name: str, provenance: Provenance) -> ModelManifest | None:
    """The newest version of `name` that the run of `provenance` has published, but not by force; None without one."""
    for version in reversed(registry.versions(name)):
        try:
            manifest = registry.manifest(name, version)
        except CorruptVersionError:
            continue
        if manifest.forced is None and same_run(manifest.provenance, provenance):
            return manifest
    return None


def metrics_of(evaluation: Evaluation) -> Iterator[Metric]:
    """The numbers of a manifest; nll, brier and ece are those of the calibrated probabilities, which are served."""
    values = {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "nll": evaluation.calibrated.nll,
        "brier": evaluation.calibrated.brier,
        "ece": evaluation.calibrated.ece,
        "ece_uncalibrated": evaluation.uncalibrated.ece,
    }
    for name, value in values.items():
        yield Metric(name=name, value=value, data=evaluation.data, n=evaluation.n)


def golden_sample(classifier: nn.Module, test: Dataset) -> GoldenSample:
    """The first test inputs with the logits that the loaded artifact gives for them."""
    inputs = test.subset(GOLDEN_INPUTS).inputs
    return GoldenSample(
        inputs=base64.b64encode(_raw(inputs)).decode(),
        logits=tuple(map(tuple, logits_of(classifier, inputs).tolist())),
        tolerance=LOGIT_TOLERANCE,
    )


def input_spec(data: Dataset) -> ImageInput | FeatureInput:
    """Return what the exported graph takes, and how a picture becomes that, read off the dataset."""
    if not data.images:
        return FeatureInput(shape=(data.inputs.shape[1],))
    channels, height, width = data.inputs.shape[1:]
    colour: Literal["grey", "rgb"] = "grey" if channels == 1 else "rgb"
    return ImageInput(shape=(channels, height, width), colour=colour, style=data.style, fit=data.fit)


def evaluation_file(evaluation: Evaluation) -> bytes:
    """`evaluation.json`: the measurement with the predicted class of every example, in the order of the dataset."""
    content = {
        "data": evaluation.data,
        "n": evaluation.n,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "uncalibrated": asdict(evaluation.uncalibrated),
        "calibrated": asdict(evaluation.calibrated),
        "classes": evaluation.classes,
        "confusion": evaluation.confusion,
        "predicted": evaluation.predicted,
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _raw(inputs: Tensor) -> bytes:
    if inputs.is_floating_point():
        return pack_floats(inputs.flatten().tolist())
    return inputs.cpu().contiguous().numpy().tobytes()
