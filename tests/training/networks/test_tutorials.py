from __future__ import annotations

from torch import nn

from training.networks.tutorials import SimpleNet, SimpleNN, Xigua


def test_the_tutorials_networks_have_their_layers() -> None:
    shapes = {
        name: [tuple(weight.shape) for weight in network.parameters() if weight.dim() > 1]
        for name, network in {
            "nn": SimpleNN(),
            "net": SimpleNN(hidden=256),
            "simple": SimpleNet(),
            "x": Xigua(),
        }.items()
    }

    assert shapes["nn"] == [(128, 784), (10, 128)]
    assert shapes["net"] == [(256, 784), (10, 256)]
    assert shapes["simple"] == [(10, 2), (1, 10)]
    assert shapes["x"] == [(32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (64, 1024), (10, 64)]
    assert not any(isinstance(layer, nn.ReLU | nn.Sigmoid | nn.GELU) for layer in Xigua().modules())
