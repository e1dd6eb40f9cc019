"""The networks: float32 [N, C, H, W] or [N, F] in, raw logits [N, K] out.

They know nothing about data, preprocessing or training; softmax is the business of who reads the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def class_logits(logits: Tensor) -> Tensor:  # float32 [N, 1] or [N, K] -> float32 [N, K], K at least 2
    """One logit for each class: one raw logit z is the two classes [0, z], whose softmax is the sigmoid of z."""
    if logits.shape[1] == 1:
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits


class Chain(nn.Module):
    """A network whose `forward` runs its layers one after the other: Flatten, Linear, ReLU and Sigmoid, no others."""

    def chain(self) -> list[nn.Module]:
        """The layers, in that order."""
        raise NotImplementedError


class SimpleNN(Chain):
    """Flatten, inputs-hidden-classes, a ReLU after the hidden layer: the tutorials' SimpleNN (128) and Net (256)."""

    def __init__(self, inputs: int = 784, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def chain(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] or [N, F] -> float32 [N, K]
        logits: Tensor = self.layers(images)
        return logits


class SimpleNet(Chain):
    """inputs-hidden-1 with a ReLU between: one raw logit, that of the second of two classes."""

    def __init__(self, input_size: int = 2, hidden_size: int = 10, output_size: int = 1) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_size, output_size)

    def chain(self) -> list[nn.Module]:
        return [self.fc1, self.relu, self.fc2]

    def forward(self, features: Tensor) -> Tensor:  # float32 [N, F] -> float32 [N, 1]
        logits: Tensor = self.fc2(self.relu(self.fc1(features)))
        return logits


class NeuralNet(Chain):
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

    def chain(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        logits: Tensor = self.layers(images)
        return logits


class Xigua(nn.Module):
    """Three convolutions of 5 x 5, each halved by max-pooling, and two linear layers; no activations."""

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


class DigitNet(nn.Module):
    """Our network for small grey images: five convolutions, the first with a stride of 2, and a linear layer.

    Every filter has a batch norm behind it, as Muon wants.
    """

    def __init__(self, channels: int = 1, classes: int = 10, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            *_convolution(channels, first, kernel=5, stride=2),
            *_convolution(first, first),
            *_convolution(first, second, pool=True),
            *_convolution(second, second),
            *_convolution(second, third, pool=True),
        ).to(memory_format=torch.channels_last)
        self.head = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        # A step takes 0.6 of the time that it takes channels first (two cores of an AMD EPYC 7003, torch 2.14).
        features: Tensor = self.features(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(features.amax((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, pool: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return [*layers, nn.BatchNorm2d(outputs), nn.ReLU()]


class WhitenedNet(nn.Module):
    """Our network for small colour images: fixed whitening filters, then three groups of two convolutions.

    The airbench family: Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
    """

    def __init__(self, channels: int = 3, classes: int = 10, widths: tuple[int, int, int] = (64, 256, 256)) -> None:
        super().__init__()
        first, second, third = widths
        self.whiten = nn.Conv2d(channels, 2 * channels * 4, 2)
        self.whiten.weight.requires_grad_(False)
        self.groups = nn.Sequential(
            nn.GELU(),
            ConvolutionGroup(2 * channels * 4, first),
            ConvolutionGroup(first, second),
            ConvolutionGroup(second, third),
        )
        self.head = nn.Linear(third, classes, bias=False)
        # airbench has deviation 1, scale 1/9 of that here, and a learning rate 12.6 times that of the biases for it.
        # This deviation and scale give the same network and the same steps at the biases' learning rate.
        nn.init.normal_(self.head.weight, std=12.6**-0.5)
        self.scale = 12.6**0.5 / third

    def whiten_from(self, images: Tensor) -> None:
        """Set the first layer's filters to the whitened principal components of all 2 x 2 patches of `images`."""
        with torch.no_grad():
            self.whiten.weight.copy_(_whitening(images))
            self.whiten.bias.zero_()  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [N, K]
        images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.groups(self.whiten(images))
        logits: Tensor = self.head(features.amax((2, 3))) * self.scale
        return logits


class ConvolutionGroup(nn.Module):
    """Convolve, halve by max-pooling, convolve; a batch norm and a GELU after both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _identity_convolution(inputs, outputs),
            nn.MaxPool2d(2),
            _norm(outputs),
            nn.GELU(),
            _identity_convolution(outputs, outputs),
            _norm(outputs),
            nn.GELU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def _identity_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution whose first filters hand their input on, so that the signal reaches the end from the first step."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inputs])
    return convolution.to(memory_format=torch.channels_last)


def _norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm with a bias and no scale, whose averages forget fast: a run has few steps."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _whitening(images: Tensor) -> Tensor:  # float32 [N, C, H, W] -> float32 [8 C, C, 2, 2]
    channels = images.shape[1]
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * 4).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(-1, channels, 2, 2)
    return torch.cat([filters, -filters]).float()
