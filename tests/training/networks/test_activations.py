from __future__ import annotations

import torch
from torch import nn

from training.networks.activations import replace_activations
from training.networks.tutorials import NeuralNet, SimpleNet, Xigua


def test_every_activation_is_replaced_and_no_weight() -> None:
    torch.manual_seed(0)
    network = NeuralNet()
    before = [weight.clone() for weight in network.parameters()]

    replaced = replace_activations(network, "relu")

    kinds = [type(module) for module in network.layers]
    assert replaced == 2
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert all(map(torch.equal, before, network.parameters()))


def test_a_named_activation_is_replaced_too() -> None:
    network = SimpleNet()

    replace_activations(network, "tanh")

    assert isinstance(network.relu, nn.Tanh)


def test_a_network_without_activations_has_none_to_replace() -> None:
    assert replace_activations(Xigua(), "relu") == 0
