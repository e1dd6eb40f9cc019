"""The average of the weights that a run began with and those that it ended with.

A run that goes on with a published network forgets some of what that network knew. The average of both keeps some of
it: Wortsman et al., "Robust fine-tuning of zero-shot models", https://arxiv.org/abs/2109.01903. Knows nothing about the
training loop.
"""

from __future__ import annotations

import torch
from torch import nn


class Blend:
    """The weights that a network began with, which it gets a share of when it has been trained."""

    def __init__(self, network: nn.Module, share: float) -> None:
        """Keep the weights of `network` as they are now, unless `share` is 0."""
        self._network, self._share = network, share
        self._start = {name: value.clone() for name, value in network.state_dict().items()} if share else {}

    @torch.no_grad()
    def finish(self) -> bool:
        """Replace the weights by `share` times those at the start plus 1 - `share` times those of now.

        Return whether that changed them. The averages of batch norms belong to neither and must be measured again.
        """
        now = self._network.state_dict()
        for name, start in self._start.items():
            if start.is_floating_point():
                now[name].lerp_(start, self._share)
        return bool(self._start)
