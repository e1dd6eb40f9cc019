"""From what a dataset holds and a client sends to what a network takes: the one place that normalises.

Training, evaluation and the exported graph all run this module, so that they cannot disagree.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Preprocessing(nn.Module):
    """uint8 [N, C, H, W] to (x / 255 - mean) / std, or float32 [N, F] to (x - mean) / std; float32 both.

    Args:
        mean: one number for each channel or feature, on the scale of 0 to 1 for images; empty for 0.
        std: likewise; empty for 1.
    """

    # TorchScript reads these as types: with `from __future__ import annotations` it would find text.
    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float] = (), std: Sequence[float] = (), *, images: bool = True) -> None:
        super().__init__()
        shape = (-1, 1, 1) if images else (-1,)
        deviation = torch.tensor(std or (1.0,), dtype=torch.float64)
        average = torch.tensor(mean or (0.0,), dtype=torch.float64)
        unit = 255.0 if images else 1.0
        # One multiplication and one subtraction a pixel; in float64 until here, so that they are as exact as three.
        self.register_buffer("scale", (1.0 / (unit * deviation)).float().reshape(shape))
        self.register_buffer("shift", (average / deviation).float().reshape(shape))
        self.shifts = any(mean)
        self.dtype = torch.uint8 if images else torch.float32

    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.dtype == self.dtype  # noqa: S101 - TorchScript keeps it: an input scaled twice is an error
        # In place: three tensors for one are more than the cache next to a core holds.
        scaled = inputs.to(torch.float32, copy=True).mul_(self.scale)
        return scaled.sub_(self.shift) if self.shifts else scaled
