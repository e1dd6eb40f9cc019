"""The tutorials' networks, layer for layer. Knows nothing about data, preprocessing or training."""

from __future__ import annotations

from torch import Tensor, nn


class SimpleNN(nn.Module):
    """Inputs-hidden-classes with a ReLU: the tutorials' SimpleNN (hidden 128) and Net (hidden 256)."""

    def __init__(self, inputs: int = 784, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] or [N, F] -> float32 [N, K]
        logits: Tensor = self.layers(images)
        return logits


class SimpleNet(nn.Module):
    """Inputs-hidden-1 with a ReLU; its one raw logit is that of the second of two classes."""

    def __init__(self, input_size: int = 2, hidden_size: int = 10, output_size: int = 1) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:  # float32 [N, F] -> float32 [N, 1]
        logits: Tensor = self.fc2(self.relu(self.fc1(features)))
        return logits


class NeuralNet(nn.Module):
    """Inputs-128-256-classes with a sigmoid after both hidden layers."""

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


class Xigua(nn.Module):
    """Three 5 x 5 convolutions, each followed by max-pooling, and two linear layers; no activations."""

    def __init__(self, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> None:
        super().__init__()
        channels, height, width = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 8) * (width // 8), 64),
            nn.Linear(64, classes),
        )

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        logits: Tensor = self.layers(images)
        return logits
