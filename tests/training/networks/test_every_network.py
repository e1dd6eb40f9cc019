"""What holds for all networks."""

from __future__ import annotations

import pytest
import torch

from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing
from training.networks.residual_net import ResidualNet
from training.networks.tutorials import NeuralNet, SimpleNN, Xigua
from training.networks.whitened_net import WhitenedNet
from training.publishing.export import Exported, export, load

NETWORKS = {
    "SimpleNN": (SimpleNN(), (1, 28, 28), 10),
    "NeuralNet": (NeuralNet(), (1, 28, 28), 10),
    "Xigua": (Xigua(), (3, 32, 32), 10),
    "Xigua grey 28": (Xigua((1, 28, 28), 4), (1, 28, 28), 4),
    "DigitNet": (DigitNet(widths=(4, 8, 8)), (1, 28, 28), 10),
    "DigitNet colour 32": (DigitNet(3, 7, (4, 8, 8)), (3, 32, 32), 7),
    "ResidualNet": (ResidualNet(widths=(8, 8, 16)), (3, 32, 32), 10),
    "ResidualNet grey 28": (ResidualNet(1, 3, (8, 8, 8)), (1, 28, 28), 3),
    "WhitenedNet": (WhitenedNet(widths=(8, 8, 8)), (3, 32, 32), 10),
    "WhitenedNet grey 28": (WhitenedNet(1, 3, (8, 8, 8)), (1, 28, 28), 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_one_for_each_class_and_survive_export(name: str) -> None:
    network, shape, classes = NETWORKS[name]
    model = Exported(Preprocessing(), network.eval())
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)

    logits = load(export(model), torch.device("cpu"))(images)

    assert logits.shape == (2, classes)
    assert torch.allclose(logits, model(images), atol=1e-4)
