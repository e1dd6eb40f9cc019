"""Measure a classifier on one split: evaluation mode, no gradients, every example. Knows nothing about training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.data import Dataset


@dataclass(frozen=True)
class Evaluation:
    """What a classifier made of one split."""

    data: str  # "mnist/test"
    loss: float  # mean cross-entropy over the examples
    accuracy: float
    predicted: tuple[int, ...]  # class of each example, in the order of the dataset

    @property
    def n(self) -> int:
        return len(self.predicted)


def evaluate(classifier: nn.Module, data: Dataset) -> Evaluation:
    """Run `classifier`, which takes inputs as the dataset holds them, on the whole of `data`."""
    logits = logits_of(classifier, data.inputs)
    predicted = logits.argmax(1)
    return Evaluation(
        data=data.title,
        loss=cross_entropy(logits.double(), data.labels).item(),
        accuracy=(predicted == data.labels).sum().item() / len(data),
        predicted=tuple(predicted.tolist()),
    )


def logits_of(classifier: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """float32 [N, K] logits of all `inputs`, computed in batches; the classifier's mode is left as it was."""
    training = getattr(classifier, "training", False)  # a frozen TorchScript module has no modes
    if training:
        classifier.eval()
    try:
        with torch.no_grad():
            return torch.cat([classifier(batch) for batch in torch.split(inputs, batch_size)])
    finally:
        if training:
            classifier.train()
