"""The classic tutorial's own way to train neural_net: DataLoader, ToTensor, one image at a time in Python.

What `benchmarks.training` measures us against; nothing is done worse than there, and nothing better.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor


class NeuralNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.stack = nn.Sequential(
            nn.Linear(28 * 28, 128), nn.Sigmoid(), nn.Linear(128, 256), nn.Sigmoid(), nn.Linear(256, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.stack(self.flatten(images))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--optimiser", choices=("sgd", "adam"), default="adam")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for torch's choice, the tutorial's.")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    train = DataLoader(MNIST(arguments.data_dir, train=True, transform=ToTensor()), batch_size=64, shuffle=True)
    test = DataLoader(MNIST(arguments.data_dir, train=False, transform=ToTensor()), batch_size=64)
    torch.manual_seed(0)
    model = NeuralNetwork()
    loss_of = nn.CrossEntropyLoss()
    kind = torch.optim.Adam if arguments.optimiser == "adam" else torch.optim.SGD
    optimiser = kind(model.parameters(), lr=0.01)

    for epoch in range(1, arguments.epochs + 1):
        model.train()
        total = 0.0
        for images, labels in train:
            loss = loss_of(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(train):.4f}", flush=True)

    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in test:
            correct += int((model(images).argmax(1) == labels).sum())
    print(f"accuracy {100 * correct / len(test.dataset):.2f}%")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
