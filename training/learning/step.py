"""One step of training: forward, loss, backward, optimiser. Knows nothing about epochs or data."""

from __future__ import annotations

import contextlib
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from training.hyper_parameters import HyperParameters
from training.learning.distributed import World
from training.networks.logits import class_logits


class Step(Protocol):
    """A function that trains on one batch and returns its summed loss and its float32 [N, K] logits."""

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`inputs` are float32, ready for the network; of both, each process of the world takes its part."""
        ...


class EagerStep:
    """A step as the tutorials write it, operation by operation."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: Optimizer,
        hyper: HyperParameters,
        *,
        device: torch.device,
        world: World,
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self._label_smoothing = hyper.label_smoothing
        half = hyper.precision == "bfloat16"
        self._autocast = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
        self._world = world

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch."""
        n = len(labels)
        inputs, labels = self._world.part(inputs), self._world.part(labels)

        self.optimiser.zero_grad()
        loss, logits = self.forward(inputs, labels, n)
        loss.backward()
        self._world.sum_gradients(self.network.parameters())
        self.optimiser.step()
        return loss.detach() * n, logits.detach()

    def forward(self, inputs: Tensor, labels: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch of `n`, or this process's share of it, and the logits."""
        with self._autocast:
            logits = self.network(inputs)
        logits = class_logits(logits.float())
        if self._world.size == 1:
            return cross_entropy(logits, labels, label_smoothing=self._label_smoothing), logits
        # A sum, because this process's part may be empty and its mean then no number.
        return cross_entropy(logits, labels, label_smoothing=self._label_smoothing, reduction="sum") / n, logits
