"""What holds for all networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.networks.activations import replace_activations
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


class Calls(TorchDispatchMode):
    """The names of torch's operations that were called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_another_activation_leaves_none_of_the_network_s_own(name: str) -> None:
    network, shape, _ = NETWORKS[name]
    network = copy.deepcopy(network).eval()
    replaced = replace_activations(network, "tanh")

    with Calls() as calls, torch.no_grad():
        network(torch.rand(2, *shape))

    assert not [called for called in calls.names if any(own in called for own in ("relu", "gelu", "sigmoid"))]
    assert ("aten.tanh.default" in calls.names) == bool(replaced)
