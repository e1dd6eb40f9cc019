"""The running loss and accuracy of an epoch, kept on the device so that no step waits for a number to be read."""

from __future__ import annotations

import torch
from torch import Tensor

from training.distributed import World
from training.errors import TrainingError


class Meter:
    """Add every batch; read when somebody looks."""

    def __init__(self, epoch: int, iterations: int, device: torch.device) -> None:
        self._epoch = epoch
        self._losses = torch.zeros(iterations, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._sizes: list[int] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch, or this process's part of it: the sum of its losses, float32 [N, K] logits, int64 [N] labels."""
        self._losses[len(self._sizes)] = loss.detach()
        self._correct += (logits.detach().argmax(1) == labels).sum()
        self._sizes.append(len(labels))

    @property
    def examples(self) -> int:
        """Examples seen so far."""
        return sum(self._sizes)

    def gather(self, world: World) -> None:
        """Add what the other processes have seen; every one of them must call it."""
        sizes = torch.tensor(self._sizes, device=self._losses.device)
        for tensor in (self._losses, self._correct, sizes):
            world.sum(tensor)
        self._sizes = sizes.tolist()

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy over the examples seen so far; the device is waited for.

        Raises:
            TrainingError: a loss was not a finite number; the message names the first iteration where it was not.
        """
        losses = self._losses[: len(self._sizes)].double().cpu()
        finite = losses.isfinite()
        if not finite.all():
            iteration = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the loss must be a finite number. Given: {losses[iteration]} in epoch {self._epoch}, iteration "
                f"{iteration + 1} of {len(self._losses)}. Try a smaller lr."
            )
        return losses.sum().item() / self.examples, self._correct.item() / self.examples
