"""Another activation in a network. Knows nothing about which network it is."""

from __future__ import annotations

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def replace_activations(network: nn.Module, name: str) -> int:
    """Put the activation `name` in place of every activation of `network`; return how many there were."""
    found = [path for path, module in network.named_modules() if isinstance(module, (*ACTIVATIONS.values(), nn.GELU))]
    for path in found:
        network.set_submodule(path, ACTIVATIONS[name]())
    return len(found)
