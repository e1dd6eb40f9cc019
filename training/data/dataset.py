"""A dataset in memory: a frozen value of tensors. Knows nothing about where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from service.contract.manifest import Fit, Style
from training.errors import OptionError

HELD_OUT = "held-out"
"""The split of training examples that were not trained on."""


@dataclass(frozen=True)
class Dataset:
    """One split of one dataset, whole, on one device.

    The inputs stay uint8 until a batch is computed: a quarter of the memory and of the traffic of float32.
    """

    name: str  # "mnist"
    split: str  # "train", "test", or "held-out" of train
    inputs: Tensor  # uint8 [N, C, H, W], or float32 [N, F]
    labels: Tensor  # int64 [N], each in 0..K-1
    classes: tuple[str, ...]  # K names
    style: Style = "photo"  # how a picture becomes one of the inputs: as these were made
    fit: Fit = "crop"
    columns: tuple[str, ...] | None = None  # F names of features

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels) or not len(self.labels):
            raise ValueError(f"inputs and labels must be as many. Given: {len(self.inputs)} and {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def title(self) -> str:
        """How results name the data they were measured on, e.g. "mnist/test"."""
        return f"{self.name}/{self.split}"

    @property
    def images(self) -> bool:
        """Whether the inputs are images; else they are feature vectors."""
        return self.inputs.dim() == 4

    @cached_property
    def digest(self) -> str:
        """The sha256, in hex, of the shapes and bytes of inputs and labels."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def moments(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, on the scale of 0 to 1, or of each feature."""
        values = self.inputs.cpu().movedim(1, 0).flatten(1)
        rows = [row.double() / (255 if self.images else 1) for row in values]
        # What never varies is left as it is: a blank channel, a constant column. Its deviation may round to 1e-16.
        varies = [bool((row != row[0]).any()) for row in values]
        deviations = [row.std(correction=0).item() if v else 1.0 for row, v in zip(rows, varies, strict=True)]
        return [row.mean().item() for row in rows], deviations

    def to(self, device: torch.device) -> Dataset:
        """Return the same dataset on `device`."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def shared_with(self, other: Dataset) -> int:
        """Return how many of these inputs are also inputs of `other`, byte for byte."""
        theirs, ours = ([hash(row.tobytes()) for row in data.inputs.cpu().numpy()] for data in (other, self))
        known = set(theirs)
        return sum(row in known for row in ours)

    def subset(self, n: int) -> Dataset:
        """Return the first `n` examples."""
        return replace(self, inputs=self.inputs[:n], labels=self.labels[:n])

    def with_more(self, others: Sequence[Dataset]) -> Dataset:
        """Return these examples and those of other splits, whose name says so: "held-out and holdout"."""
        parts = (self, *others)
        return replace(
            self,
            split=" and ".join(part.split for part in parts),
            inputs=torch.cat([part.inputs.to(self.inputs.device) for part in parts]),
            labels=torch.cat([part.labels.to(self.labels.device) for part in parts]),
        )

    def every_fifth(self, split: str) -> Dataset:
        """Return the split "test", every fifth example of each class, or "train", the others."""
        chosen = torch.zeros_like(self.labels, dtype=torch.bool)
        for label in range(len(self.classes)):
            chosen[(self.labels == label).nonzero().flatten()[::5]] = True
        chosen = chosen if split == "test" else ~chosen
        return replace(self, split=split, inputs=self.inputs[chosen], labels=self.labels[chosen])

    def hold_out(self, share: float) -> tuple[Dataset, Dataset]:
        """Return the rest, and `share` of every class as the split "held-out".

        Which examples depends on their order alone, never on a seed: what no run has trained on stays that way.
        """
        chosen = torch.zeros(len(self), dtype=torch.bool)
        for label in range(len(self.classes)):
            members = (self.labels.cpu() == label).nonzero().flatten()
            upto = (torch.arange(len(members) + 1, dtype=torch.float64) * share).floor()
            chosen[members[upto.diff() > 0]] = True
        if not chosen.any():
            raise OptionError(
                f"held_out must be a share that is at least one example of some class of {len(self):,} examples. "
                f"Given: {share}"
            )
        chosen = chosen.to(self.labels.device)
        rest = replace(self, inputs=self.inputs[~chosen], labels=self.labels[~chosen])
        return rest, replace(self, split=HELD_OUT, inputs=self.inputs[chosen], labels=self.labels[chosen])
