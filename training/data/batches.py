"""The batches of an epoch: their examples, variations, and way to the training device.

Knows nothing about networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.utils.data
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from training.data.augmentation import Augmentation, shrink
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters


@dataclass(frozen=True)
class Feed:
    """How batches reach the device. Examples that are there already are gathered there, without a loader."""

    device: torch.device | None = None  # that trains; None for where the data is
    workers: int = 0  # processes that prepare batches
    pin_memory: bool = True  # from page-locked memory a GPU copies while it computes

    def takes_from(self, data: Dataset) -> bool:
        """Return whether `data` is on the device already and no workers are to prepare its batches."""
        return not self.workers and self.device in (None, data.inputs.device)


GATHERED = Feed()

GATHERED_TOGETHER = 512
"""Examples gathered and prepared in one call when they are not varied; small batches cost mostly the call."""

Prepare = Callable[[Tensor], Tensor]


def _as_they_are(inputs: Tensor) -> Tensor:
    return inputs


def batches(
    data: Dataset,
    hyper: HyperParameters,
    epoch: int,
    augmentation: Augmentation | None = None,
    feed: Feed = GATHERED,
    *,
    prepare: Prepare = _as_they_are,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of each iteration of an epoch, the same whichever way they are fed.

    `prepare` makes the inputs ready for the network, on the device that trains.

    Order and augmentation depend on seed, epoch and iteration alone.
    """
    prepared = _Epoch(data, hyper, epoch, augmentation)
    if feed.takes_from(data):
        for inputs, labels in prepared.gathered():
            size = hyper.batch_size
            yield from zip(torch.split(prepare(inputs), size), torch.split(labels, size), strict=True)
        return
    device = feed.device or data.inputs.device
    pinned = feed.pin_memory and device.type == "cuda"
    loader = DataLoader(prepared, batch_size=None, num_workers=feed.workers, pin_memory=pinned)
    for inputs, labels in loader:
        yield prepare(inputs.to(device, non_blocking=pinned)), labels.to(device, non_blocking=pinned)


class _Epoch(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One epoch as a sequence of batches, each of which any process can prepare on its own."""

    def __init__(self, data: Dataset, hyper: HyperParameters, epoch: int, augmentation: Augmentation | None) -> None:
        order = torch.arange(len(data))
        if hyper.shuffle:
            order = torch.randperm(len(data), generator=_generator(hyper.seed, epoch))
        order = order.to(data.inputs.device)
        self._chosen = torch.split(order, hyper.batch_size)[: hyper.iterations(len(data))]
        self._data = data
        self._hyper = hyper
        self._epoch = epoch
        self._augmentation = augmentation if hyper.augment else None
        self._shrinks = data.images and hyper.is_small(epoch)

    def __len__(self) -> int:
        return len(self._chosen)

    def gathered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches in order, several of them in one pair of tensors where images are not varied."""
        if self._augmentation is not None or self._shrinks:
            yield from (self[iteration] for iteration in range(len(self)))
            return
        together = max(1, GATHERED_TOGETHER // self._hyper.batch_size)
        for first in range(0, len(self), together):
            chosen = torch.cat(self._chosen[first : first + together])
            yield self._data.inputs.index_select(0, chosen), self._data.labels.index_select(0, chosen)

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        chosen = self._chosen[iteration]
        # A batch of 64 gathered here and scaled takes 0.06 ms of a CPU core; an image at a time takes 8.8 ms.
        inputs = self._data.inputs.index_select(0, chosen)
        if self._augmentation is not None:
            generator = _generator(self._hyper.seed, self._epoch, iteration + 1)
            inputs = self._augmentation(inputs, examples=chosen, epoch=self._epoch, generator=generator)
        if self._shrinks:
            inputs = shrink(inputs)
        return inputs, self._data.labels.index_select(0, chosen)


def _generator(seed: int, epoch: int, iteration: int = 0) -> Generator:
    """Return a generator for one epoch's order, or for one iteration; resuming there needs no state."""
    # torch's generator on the CPU looks at the low 32 bits of a seed alone.
    return Generator().manual_seed((seed * 1_000_003 + epoch + iteration * 2_654_435_761) % 2**32)
