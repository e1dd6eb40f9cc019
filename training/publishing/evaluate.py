"""Measure a classifier on one split: evaluation mode, no gradients, every example. Knows nothing about training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.errors import TrainingError
from training.publishing.calibrate import Calibration, calibration


@dataclass(frozen=True)
class ClassResult:
    """The result for the examples of one class."""

    name: str
    n: int  # examples of the class
    recall: float  # share of them that were predicted as this class; nan when there are none
    precision: float  # share of the examples predicted as this class that belong to it; nan when there are none


@dataclass(frozen=True)
class Evaluation:
    """The result of a classifier on one split."""

    data: str  # "mnist/test"
    loss: float  # mean cross-entropy over the examples, of the logits as they are
    accuracy: float
    predicted: tuple[int, ...]  # class of each example, in the order of the dataset
    confidences: tuple[float, ...]  # calibrated probability of that class
    mistakes: tuple[int, ...]  # examples whose class is wrong, the most confident first
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # [label][predicted], how often
    uncalibrated: Calibration  # at temperature 1
    calibrated: Calibration  # at the temperature that is published

    @property
    def n(self) -> int:
        return len(self.predicted)

    @property
    def per_class(self) -> tuple[ClassResult, ...]:
        """The result of each class, in the order of the classes."""
        given = [sum(column) for column in zip(*self.confusion, strict=True)]
        return tuple(
            ClassResult(name, sum(row), _share(row[i], sum(row)), _share(row[i], given[i]))
            for i, (name, row) in enumerate(zip(self.classes, self.confusion, strict=True))
        )


def evaluate(classifier: nn.Module, data: Dataset, *, temperature: float = 1.0) -> Evaluation:
    """Run `classifier`, which takes inputs as the dataset holds them, on the whole of `data`.

    Raises:
        TrainingError: as `expect_finite`.
    """
    logits = logits_of(classifier, data.inputs)
    expect_finite(logits, data)
    predicted = logits.argmax(1)
    confidences = (logits.double() / temperature).softmax(1).amax(1)
    wrong = (predicted != data.labels).nonzero().flatten()
    uncalibrated = calibration(logits, data.labels, temperature=1.0)
    return Evaluation(
        data=data.title,
        loss=uncalibrated.nll,
        accuracy=(predicted == data.labels).sum().item() / len(data),
        predicted=tuple(predicted.tolist()),
        confidences=tuple(confidences.tolist()),
        mistakes=tuple(wrong[confidences[wrong].argsort(descending=True, stable=True)].tolist()),
        classes=data.classes,
        confusion=_confusion(data.labels, predicted, len(data.classes)),
        uncalibrated=uncalibrated,
        calibrated=uncalibrated if temperature == 1.0 else calibration(logits, data.labels, temperature=temperature),
    )


def expect_finite(logits: Tensor, data: Dataset) -> None:
    """Raise TrainingError if a logit for an input of `data` is no number that can be compared with others."""
    is_finite = logits.to("cpu").isfinite().all(1)
    if not is_finite.all():
        wrong = int((~is_finite).sum())
        raise TrainingError(
            f"the network must give finite numbers for every input of {data.title}. Given: {wrong:,} of {len(data):,} "
            "for which it does not. Look for values there that are far from those that it learnt from."
        )


def logits_of(classifier: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """Compute float32 [N, K] logits of all `inputs`, in batches; the classifier's mode stays as it was."""
    training = getattr(classifier, "training", False)  # a frozen TorchScript module has no modes
    if training:
        classifier.eval()
    try:
        with torch.no_grad():
            return torch.cat([classifier(batch) for batch in torch.split(inputs, batch_size)])
    finally:
        if training:
            classifier.train()


def _confusion(labels: Tensor, predicted: Tensor, classes: int) -> tuple[tuple[int, ...], ...]:
    counts = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    return tuple(map(tuple, counts.view(classes, classes).tolist()))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
