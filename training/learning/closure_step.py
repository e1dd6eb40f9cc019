"""One step of an optimiser that asks for the gradient several times. Knows nothing about epochs or data."""

from __future__ import annotations

from torch import Tensor

from training.learning.step import EagerStep


class ClosureStep(EagerStep):
    """A step of LBFGS, which calls forward and backward until it is content with this batch.

    The loss and logits that it returns are those before the first move, as those of the other steps are.
    """

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch, of which each process of the world takes its part."""
        n = len(labels)
        inputs, labels = self._world.part(inputs), self._world.part(labels)
        first: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            self.optimiser.zero_grad()
            loss, logits = self.forward(inputs, labels, n)
            loss.backward()
            self._world.sum_gradients(self.network.parameters())
            if not first:
                first.append((loss.detach() * n, logits.detach()))
            mean = loss.detach().clone()
            self._world.sum(mean)  # every process must see the same loss, to stop at the same iteration
            return mean

        self.optimiser.step(closure)  # type: ignore[arg-type]  # torch's stub wants a float, LBFGS takes both
        return first[0]
