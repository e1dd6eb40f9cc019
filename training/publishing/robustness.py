"""Accuracy on corrupted copies of a split: sixteen kinds at five severities. Knows nothing about training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from service.contract.manifest import Metric
from training.data.corruptions import SEVERITIES, corrupted, kinds_for
from training.data.dataset import Dataset
from training.publishing.evaluate import logits_of

IMAGES = 500
"""Of a split, spread evenly, with 80 copies of each. Making 80,000 took 3 s (a core of an AMD EPYC)."""

MOST_SIDE = 64
"""Pixels of a side. Blurs and the like are as wide as images of 32 x 32 need; on far larger ones they are nothing."""

MEAN, WORST = "corrupted_accuracy", "corrupted_accuracy_worst"
"""The names of a manifest's metrics: over all copies, and of the worst kind."""


@dataclass(frozen=True)
class Robustness:
    """The accuracies of a classifier on corrupted copies of a split."""

    data: str  # "mnist/test"
    n: int  # copies of each kind and severity
    accuracies: Mapping[str, tuple[float, ...]]  # of each severity, by kind

    @property
    def mean(self) -> float:
        return sum(map(self.of, self.accuracies)) / len(self.accuracies)

    @property
    def worst(self) -> str:
        """The kind with the lowest accuracy over its severities."""
        return min(self.accuracies, key=self.of)

    def of(self, kind: str) -> float:
        """Return the mean over the severities of `kind`."""
        return sum(self.accuracies[kind]) / len(self.accuracies[kind])

    @property
    def metrics(self) -> Iterator[Metric]:
        """What a manifest records."""
        for name, value in ((MEAN, self.mean), (WORST, self.of(self.worst))):
            yield Metric(name=name, value=value, data=self.data, n=self.n)


def robustness(classifier: nn.Module, data: Dataset) -> Robustness | None:
    """Measure `classifier` on corrupted copies of `data`; None for features and for images that are far larger."""
    if not data.images or max(data.inputs.shape[2:]) > MOST_SIDE:
        return None
    step = math.ceil(len(data) / IMAGES)
    images, labels = data.inputs[::step], data.labels[::step]

    def accuracy(kind: str, severity: int) -> float:
        predicted = logits_of(classifier, corrupted(images, kind, severity, style=data.style)).argmax(1)
        return (predicted == labels).double().mean().item()

    accuracies = {kind: tuple(accuracy(kind, severity) for severity in SEVERITIES) for kind in kinds_for(images)}
    return Robustness(data.title, len(labels), accuracies)
