"""Publication of an artifact and its measurements as a version in the registry, with its manifest.

Knows nothing about how the model was trained.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

import torch
from torch import Tensor

from service.contract.manifest import (
    Artifact,
    FeatureInput,
    ForeignEvidence,
    GoldenSample,
    ImageInput,
    Metric,
    ModelManifest,
    Provenance,
    pack_floats,
)
from service.contract.registry import CorruptVersionError, Registry
from training.data.dataset import Dataset
from training.publishing.abstention import Abstention
from training.publishing.equivalence import UNTESTED, Equivalence
from training.publishing.evaluate import Evaluation, logits_of
from training.publishing.export import LOGIT_TOLERANCE, load_columns
from training.publishing.provenance import same_run

GOLDEN_INPUTS = 8
EVALUATION = "evaluation.json"


def publish(
    registry: Registry,
    name: str,
    *,
    known: Abstention,
    golden: GoldenSample,
    foreign: Sequence[ForeignEvidence] = (),
    more: Sequence[Metric] = (),
    equivalence: Equivalence = UNTESTED,
    test: Dataset,
    evaluations: Sequence[Evaluation],
    provenance: Provenance,
    report: Callable[[ModelManifest], Mapping[str, bytes]] | None = None,
    forced: str | None = None,
) -> ModelManifest:
    """Write the next version of the model `name` and return its manifest; the first of `evaluations` is the test's.

    `known` is the artifact with what it knows about its limits, `foreign` and `more` metrics are how well it does.
    `equivalence` says which other forms may serve. `report` makes the files for people. `forced` is what the gate
    refused it for, when it is published all the same.

    Raises:
        RegistryError: the registry cannot be written; then there is no new version.
    """

    def describe(version: int, file: Artifact) -> ModelManifest:
        return ModelManifest(
            schema_version=1 if known.outliers is None else 2,
            name=name,
            version=version,
            created=datetime.now(UTC),
            artifact=file,
            input=input_spec(test),
            classes=test.classes,
            temperature=evaluations[0].calibrated.temperature,
            metrics=(*(metric for evaluation in evaluations for metric in metrics_of(evaluation)), *more),
            golden=golden,
            forms=equivalence.forms,
            half_precision=equivalence.half_precision,
            outliers=known.outliers,
            foreign=tuple(foreign),
            sets=known.sets,
            distributions=known.distributions,
            provenance=provenance,
            forced=forced,
        )

    def files(manifest: ModelManifest) -> dict[str, bytes]:
        return {EVALUATION: evaluation_file(evaluations[0]), **(report(manifest) if report is not None else {})}

    return registry.publish(name, known.artifact, describe, files=files)


def published(registry: Registry, name: str, provenance: Provenance, data: Dataset) -> ModelManifest | None:
    """Return the newest version of `name` that the run of `provenance` on `data` published without force, or None.

    The digest of the data does not know the names of its classes and columns; a version with other ones is another.
    """
    named = data.classes, input_spec(data)
    for version in reversed(registry.versions(name)):
        try:
            manifest = registry.manifest(name, version)
        except CorruptVersionError:
            continue
        same = same_run(manifest.provenance, provenance) and (manifest.classes, manifest.input) == named
        if manifest.forced is None and same:
            return manifest
    return None


def metrics_of(evaluation: Evaluation) -> Iterator[Metric]:
    """Yield a manifest's metrics; nll, brier and ece are of the calibrated probabilities, which are served."""
    values = {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "nll": evaluation.calibrated.nll,
        "brier": evaluation.calibrated.brier,
        "ece": evaluation.calibrated.ece,
        "ece_bound": evaluation.calibrated.ece_bound,
        "ece_uncalibrated": evaluation.uncalibrated.ece,
        "ece_uncalibrated_bound": evaluation.uncalibrated.ece_bound,
    }
    for name, value in values.items():
        yield Metric(name=name, value=value, data=evaluation.data, n=evaluation.n)


def golden_sample(known: Abstention, test: Dataset, device: torch.device) -> GoldenSample:
    """Take the first test inputs, and the logits and scores that the loaded artifact gives for them."""
    inputs = test.subset(GOLDEN_INPUTS).inputs
    columns = logits_of(load_columns(known.artifact, device), inputs)
    classes = len(test.classes)
    return GoldenSample(
        inputs=base64.b64encode(_raw(inputs)).decode(),
        logits=tuple(map(tuple, columns[:, :classes].tolist())),
        scores=tuple(columns[:, classes:].flatten().tolist()),
        tolerance=LOGIT_TOLERANCE,
    )


def input_spec(data: Dataset) -> ImageInput | FeatureInput:
    """Describe the inputs of the exported graph, and how a picture becomes one, as the dataset has it."""
    if not data.images:
        return FeatureInput(shape=(data.inputs.shape[1],), columns=data.columns)
    channels, height, width = data.inputs.shape[1:]
    colour: Literal["grey", "rgb"] = "grey" if channels == 1 else "rgb"
    return ImageInput(shape=(channels, height, width), colour=colour, style=data.style, fit=data.fit)


def evaluation_file(evaluation: Evaluation) -> bytes:
    """Encode `evaluation.json`: the measurement and the class predicted for every example, in the dataset's order."""
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
