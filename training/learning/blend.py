"""The average of the weights that a run began with and those that it ended with.

A run that goes on with a published network forgets some of what that network knew. The average of both keeps some of
it: Wortsman et al., "Robust fine-tuning of zero-shot models", https://arxiv.org/abs/2109.01903. Knows nothing about the
training loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from training.learning.distributed import World

_MEASURED = 6000
"""Examples that the averages of the batch norms are measured on again."""


class Blend:
    """The weights that a network began with, which it gets a share of when it has been trained."""

    def __init__(self, network: nn.Module, share: float) -> None:
        """Keep the weights of `network` as they are now, unless `share` is 0."""
        self._network, self._share = network, share
        self._start = {name: value.clone() for name, value in network.state_dict().items()} if share else {}

    @torch.no_grad()
    def finish(self, batches: Iterable[Tensor], *, world: World) -> None:
        """Replace the weights by `share` times those at the start plus 1 - `share` times those of now.

        The averages of batch norms belong to neither; they are measured again on about 6,000 examples of `batches`,
        float32 inputs as in training, of which each process of `world` takes its part.
        """
        if not self._start:
            return
        for name, value in self._network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(self._start[name], self._share)
        # All processes must stop at the same batch, so whole ones are counted: parts differ by an example.
        update_bn((world.part(batch) for batch in _first(batches, _MEASURED)), self._network)


def _first(batches: Iterable[Tensor], examples: int) -> Iterator[Tensor]:
    """Yield batches until they have `examples`, or there are no more."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch)
        if seen >= examples:
            return
