"""The ability of a version to say that it does not know: outlier scores, their threshold, and prediction sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.contract.manifest import (
    Distributions,
    FeatureInput,
    ForeignEvidence,
    ImageInput,
    Metric,
    OutlierScores,
    PredictionSets,
)
from service.images.decode import is_blank
from training.data.cache import NO_CACHE, Cache
from training.data.dataset import Dataset
from training.publishing import foreign, outliers, prediction_sets
from training.publishing.distributions import distributions
from training.publishing.evaluate import logits_of
from training.publishing.export import features_of, load_columns, with_scores
from training.publishing.sharpening import Sharpening

COVERAGE = 0.95
"""The coverage that manifests and cards report, as coverage_95 and set_size_95."""

FITTED_ON = 10_000
"""Training examples that the Gaussians are fitted on, spread evenly: a covariance of 256 channels needs no more."""

_COMPARED_WITH = 2_000  # examples of the test split, for each foreign kind
_KNOWN_BLANK = 0.001  # of the training pictures


@dataclass(frozen=True)
class Abstention:
    """An artifact, and what a manifest says about when it should abstain; nothing if too little was held out.

    `distributions` are those that its predictions for held-out inputs have.
    """

    artifact: bytes
    outliers: OutlierScores | None = None
    sets: PredictionSets | None = None
    distributions: Distributions | None = None


def learn(
    artifact: bytes,
    train: Dataset,
    held_out: Dataset | None,
    *,
    temperature: float,
    device: torch.device,
    ways: int = 1,
    sharpening: Sharpening | None = None,
) -> Abstention:
    """Add outlier scores to an artifact that was trained on `train`, and set what depends on `held_out` data.

    That may hold its examples in several `ways`, one after the other. Weights stay as they are, and logits but for
    their `sharpening`.
    """
    if held_out is None or len(held_out) < outliers.LEAST_HELD_OUT:
        return Abstention(artifact)
    fitted = train.inputs[:: math.ceil(len(train) / FITTED_ON)]
    seen = features_of(artifact, held_out.inputs, device)
    score = outliers.fit(features_of(artifact, fitted, device), seen)
    with torch.no_grad():
        scores = score(seen.logits, seen.mean, seen.square)
        logits = seen.logits if sharpening is None else sharpening(seen.logits)
    labels = held_out.labels.cpu()
    return Abstention(
        with_scores(artifact, score, sharpening),
        outliers.thresholds(scores, data=held_out.title, knows_blank=_has_blank(train)),
        prediction_sets.floors(
            prediction_sets.probabilities(logits, temperature), labels, data=held_out.title, ways=ways
        ),
        distributions(logits, scores, temperature=temperature, data=held_out.title),
    )


def metrics_of(known: Abstention, data: Dataset, *, temperature: float, device: torch.device) -> Iterator[Metric]:
    """Yield how often `data` is flagged, and how often prediction sets hold its truth and how large they are."""
    if known.outliers is None or known.sets is None:
        return
    columns = logits_of(load_columns(known.artifact, device), data.inputs)
    probabilities = prediction_sets.probabilities(columns[:, :-1], temperature)
    covered, size = prediction_sets.coverage(probabilities, data.labels, known.sets.floor(COVERAGE))
    values = {
        "outliers": (columns[:, -1] > known.outliers.threshold).double().mean().item(),
        "coverage_95": covered,
        "set_size_95": size,
    }
    for name, value in values.items():
        yield Metric(name=name, value=value, data=data.title, n=len(data))


def compare(
    known: Abstention,
    test: Dataset,
    spec: ImageInput | FeatureInput,
    data_dir: Path,
    device: torch.device,
    *,
    cache: Cache = NO_CACHE,
) -> Iterator[ForeignEvidence]:
    """Yield how well each foreign kind of pictures is told from those of `test`."""
    if known.outliers is None or not isinstance(spec, ImageInput):
        return
    classifier = load_columns(known.artifact, device)
    own = _scores_of(classifier, test.inputs[:: math.ceil(len(test) / _COMPARED_WITH)], spec, known.outliers)
    kinds = {kind: foreign.inputs_of(kind, spec) for kind in foreign.KINDS}
    for kind, inputs in (kinds | foreign.datasets_beside(test.name, spec, data_dir, cache)).items():
        scores = _scores_of(classifier, inputs, spec, known.outliers)
        yield outliers.evidence(kind, scores, own, threshold=known.outliers.threshold, data=test.title)


def _scores_of(classifier: nn.Module, inputs: Tensor, spec: ImageInput, found: OutlierScores) -> Tensor:
    """Return the scores of pictures; without end for a blank one, which the service reports without the network."""
    scores = logits_of(classifier, inputs)[:, -1].cpu()
    if not found.knows_blank:
        scores[torch.tensor(_blank(inputs, spec))] = math.inf
    return scores


def _has_blank(train: Dataset) -> bool:
    """Return whether pictures of one colour are among those that a model was taught."""
    if not train.images:
        return False
    channels, height, width = train.inputs.shape[1:]
    spec = ImageInput(shape=(channels, height, width), colour="grey" if channels == 1 else "rgb", style=train.style)
    return sum(_blank(train.inputs, spec)) > _KNOWN_BLANK * len(train)


def _blank(inputs: Tensor, spec: ImageInput) -> list[bool]:
    return [is_blank(picture.tobytes(), spec) for picture in inputs.cpu().numpy()]
