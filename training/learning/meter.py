"""The running loss and accuracy of an epoch, kept on the device so that no step waits for a number to be read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.errors import TrainingError
from training.learning.distributed import World

TOGETHER = 64
"""Batches that are counted at once: a step of `neural_net` takes 0.9 ms, counting each by itself 0.06 ms of it."""


class Meter:
    """Add every batch; read when somebody looks."""

    def __init__(self, epoch: int, iterations: int, device: torch.device, *, label_smoothing: float = 0.0) -> None:
        self._epoch = epoch
        self._smoothing = label_smoothing
        self._losses = torch.zeros(iterations, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._sizes: list[int] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """One batch, or this process's part of it: float32 [N, K] logits and int64 [N] labels."""
        self._sizes.append(len(labels))
        self._waiting.append((logits, labels))
        if len(self._waiting) == TOGETHER:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        logits, labels = (torch.cat(tensors) for tensors in zip(*self._waiting, strict=True))
        losses = cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
        first, upto = len(self._sizes) - len(self._waiting), len(self._sizes)
        iterations = torch.arange(first, upto).repeat_interleave(torch.tensor(self._sizes[first:upto]))
        self._losses.index_add_(0, iterations.to(losses.device), losses)
        self._correct += (logits.argmax(1) == labels).sum()
        self._waiting.clear()

    @property
    def examples(self) -> int:
        """Examples seen so far."""
        return sum(self._sizes)

    def gather(self, world: World) -> None:
        """Add what the other processes have seen; every one of them must call it."""
        self._count()
        sizes = torch.tensor(self._sizes, device=self._losses.device)
        for tensor in (self._losses, self._correct, sizes):
            world.sum(tensor)
        self._sizes = sizes.tolist()

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy over the examples seen so far; the device is waited for.

        Raises:
            TrainingError: a loss was not a finite number; the message names the first iteration where it was not.
        """
        self._count()
        losses = self._losses[: len(self._sizes)].double().cpu()
        finite = losses.isfinite()
        if not finite.all():
            iteration = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the loss must be a finite number. Given: {losses[iteration]} in epoch {self._epoch}, iteration "
                f"{iteration + 1} of {len(self._losses)}. Try a smaller lr."
            )
        return losses.sum().item() / self.examples, self._correct.item() / self.examples
