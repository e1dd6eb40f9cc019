"""The networks: float32 [N, C, H, W] or [N, F] in, raw logits [N, K] out.

They know nothing about data, preprocessing or training; softmax is the business of who reads the logits.
"""

from __future__ import annotations

from torch import Tensor, nn


class NeuralNet(nn.Module):
    """Flatten, inputs-128-256-classes, a sigmoid after both hidden layers; with MNIST 784-128-256-10."""

    def __init__(self, inputs: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, 128),
            nn.Sigmoid(),
            nn.Linear(128, 256),
            nn.Sigmoid(),
            nn.Linear(256, classes),
        )

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        logits: Tensor = self.layers(images)
        return logits
