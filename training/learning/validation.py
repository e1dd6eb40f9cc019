"""Validation: loss and accuracy on held-out examples after each epoch, and the epoch that was best by them.

Knows nothing about the training loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from training.data.dataset import Dataset
from training.networks.logits import class_logits

_BATCH = 256


class Validation(NamedTuple):
    """Mean loss and accuracy on examples that are not learnt from."""

    loss: float
    accuracy: float


def validate(network: nn.Module, preprocessing: nn.Module, data: Dataset, device: torch.device) -> Validation:
    """Measure `network` on all of `data` in evaluation mode; afterwards it is in training mode."""
    network.eval()
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    try:
        with torch.no_grad():
            for inputs, labels in zip(data.inputs.split(_BATCH), data.labels.split(_BATCH), strict=True):
                logits = class_logits(network(preprocessing(inputs.to(device))).float())
                expected = labels.to(device)
                loss += cross_entropy(logits, expected, reduction="sum").double().cpu()
                correct += int((logits.argmax(1) == expected).sum())
    finally:
        network.train()
    return Validation(loss.item() / len(data), correct / len(data))


class Best:
    """The weights of the epoch with the lowest validation loss; part of a run's checkpoint."""

    def __init__(self, network: nn.Module, *, patience: int) -> None:
        """Keep nothing if `patience`, the epochs to wait for a lower loss, is 0."""
        self._network, self._patience = network, patience
        self.epoch, self._loss = 0, float("inf")
        self._weights: dict[str, torch.Tensor] = {}

    def see(self, epoch: int, loss: float) -> None:
        """Keep the weights as they are now if `loss` is the lowest so far."""
        if self._patience and loss < self._loss:
            self.epoch, self._loss = epoch, loss
            self._weights = {name: weight.detach().clone() for name, weight in self._network.state_dict().items()}

    def is_long_ago(self, epoch: int) -> bool:
        """Return whether the run should stop after `epoch`, because no loss was lower for too long."""
        return bool(self._patience) and epoch - self.epoch >= self._patience

    def restore(self) -> None:
        """Give the network the weights of the best epoch, if any were kept."""
        if self._weights:
            self._network.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"epoch": self.epoch, "loss": self._loss, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epoch, self._loss, self._weights = state["epoch"], state["loss"], state["weights"]
