from __future__ import annotations

import pytest
import torch
from torch import nn

from training.networks.digit_net import DigitNet
from training.networks.logits import class_logits
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet, SimpleNet, SimpleNN, Xigua
from training.networks.whitened_net import WhitenedNet
from training.publishing.export import Exported, export, load

NETWORKS = {
    "SimpleNN": (SimpleNN(), (1, 28, 28), 10),
    "NeuralNet": (NeuralNet(), (1, 28, 28), 10),
    "Xigua": (Xigua(), (3, 32, 32), 10),
    "Xigua grey 28": (Xigua((1, 28, 28), 4), (1, 28, 28), 4),
    "DigitNet": (DigitNet(widths=(4, 8, 8)), (1, 28, 28), 10),
    "DigitNet colour 32": (DigitNet(3, 7, (4, 8, 8)), (3, 32, 32), 7),
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


def test_one_raw_logit_means_the_second_of_two_classes_and_more_are_left_alone() -> None:
    one, three = torch.tensor([[2.0], [-1.0]]), torch.ones(2, 3)

    assert class_logits(one).tolist() == [[0.0, 2.0], [0.0, -1.0]]
    assert torch.equal(class_logits(three), three)


def test_the_whitened_patches_have_no_correlation_and_variance_one() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(200, 3, 8, 8), size=(16, 16), mode="bilinear")
    images[:, 1] = images[:, 0] + 0.5 * images[:, 1]  # channels that are alike, as in photographs
    network = WhitenedNet()

    network.whiten_from(images)

    responses = network.whiten(images)[:, :12].transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 0.02
    assert covariance.diag()[:6].tolist() == pytest.approx([1] * 6, abs=0.05)
    assert torch.equal(network.whiten.weight[12:], -network.whiten.weight[:12])
    assert not network.whiten.weight.requires_grad
