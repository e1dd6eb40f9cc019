"""What a dataset is once it is in memory: a frozen value of tensors. Where they come from is `sources`' business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """One split of one dataset, whole, on one device.

    The inputs stay uint8 until a batch is computed: a quarter of the memory and of the traffic of float32.
    """

    name: str  # "mnist"
    split: str  # "train" or "test"
    inputs: Tensor  # uint8 [N, C, H, W], or float32 [N, F]
    labels: Tensor  # int64 [N], each in 0..K-1
    classes: tuple[str, ...]  # K names

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
        """sha256, in hex, over shape and bytes of inputs and labels."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> Dataset:
        """The same on `device`."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def subset(self, n: int) -> Dataset:
        """The first `n`."""
        return replace(self, inputs=self.inputs[:n], labels=self.labels[:n])
