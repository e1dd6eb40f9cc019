"""A residual network for small colour images: three groups of two blocks behind a plain convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualNet(nn.Module):
    """Our residual network for small images: a wide residual network of 16 layers, about 3.5 times the usual width.

    Zagoruyko and Komodakis, "Wide residual networks", 2016 (https://arxiv.org/abs/1605.07146). Its first layer learns
    its filters: whitening ones amplify noise.
    """

    def __init__(self, channels: int = 3, classes: int = 10, widths: tuple[int, int, int] = (56, 120, 256)) -> None:
        super().__init__()
        first, second, third = widths
        self.body = nn.Sequential(
            _convolution(channels, _STEM),
            Block(_STEM, first),
            Block(first, first),
            Block(first, second, stride=2),
            Block(second, second),
            Block(second, third, stride=2),
            Block(third, third),
            nn.BatchNorm2d(third),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        features: Tensor = self.body(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


_STEM = 16


class Block(nn.Module):
    """Two convolutions, each behind a batch norm and a ReLU, and their sum with the input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(inputs)
        self.first_activation = nn.ReLU()  # a module, so that `--activation` finds them
        self.first = _convolution(inputs, outputs, stride=stride)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.second_activation = nn.ReLU()
        self.second = _convolution(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _convolution(inputs, outputs, kernel=1, stride=stride) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        activated = self.first_activation(self.first_norm(images))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        features: Tensor = self.second(self.second_activation(self.second_norm(self.first(activated))))
        return features + shortcut


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution.to(memory_format=torch.channels_last)
