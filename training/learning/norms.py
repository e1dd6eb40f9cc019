"""The averages of batch norms, measured again for weights that are an average of others.

An average of weights has never been trained with: the means and variances that reach its layers are those of none of
the networks that it was made of. Knows nothing about how the weights were averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from training.learning.distributed import World

_MEASURED = 6000
"""Examples that the averages of the batch norms are measured on again."""


def measure_norms(network: nn.Module, batches: Iterable[Tensor], *, world: World) -> None:
    """Measure the batch norms of `network` on about 6,000 examples of `batches`, float32 inputs as in training.

    Each process of `world` takes its part of every batch. Without a batch norm no batch is taken.
    """
    # All processes must stop at the same batch, so whole ones are counted: parts differ by an example.
    update_bn((world.part(batch) for batch in _first(batches, _MEASURED)), network)


def _first(batches: Iterable[Tensor], examples: int) -> Iterator[Tensor]:
    """Yield batches until they have `examples`, or there are no more."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch)
        if seen >= examples:
            return
