from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.hyper_parameters import HyperParameters
from training.learning.gradients import Autograd, WrittenOut, gradients_of
from training.networks.tutorials import Chain, NeuralNet, SimpleNet, SimpleNN, Xigua

CPU = torch.device("cpu")
PLAIN = HyperParameters(epochs=1, batch_size=8, optimiser="sgd", lr=0.1)
SMOOTHED = PLAIN.override({"label_smoothing": 0.1})
CHAINS = [
    (NeuralNet(784, 10), (1, 28, 28)),
    (SimpleNN(784, 128, 10), (1, 28, 28)),
    (SimpleNet(2, 10, 1), (2,)),
    (SimpleNet(2, 10, 3), (2,)),
]


def batch(shape: tuple[int, ...], classes: int, *, n: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(n, *shape), torch.randint(0, classes, (n,))


def left_in(network: nn.Module) -> list[Tensor]:
    return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]


@pytest.mark.parametrize("hyper", [PLAIN, SMOOTHED], ids=["plain", "smoothed"])
@pytest.mark.parametrize(("network", "shape"), CHAINS, ids=["neural_net", "simple_nn", "one_logit", "three_logits"])
def test_written_out_gradients_are_those_of_autograd(
    network: Chain, shape: tuple[int, ...], hyper: HyperParameters
) -> None:
    weights = list(network.parameters())
    inputs, labels = batch(shape, max(2, len(weights[-1])))

    logits = Autograd(network, hyper, CPU)(inputs, labels, n=20)
    expected = left_in(network)
    closed = gradients_of(network, hyper, CPU)
    closed(*batch(shape, 2), n=3)  # what was there before does not count
    ours = closed(inputs, labels, n=20)

    assert isinstance(closed, WrittenOut)
    assert torch.allclose(ours, logits)
    assert len(expected) == len(weights)
    for gradient, by_autograd in zip(left_in(network), expected, strict=True):
        assert gradient.shape == by_autograd.shape
        assert by_autograd.abs().max() > 1e-6
        assert torch.allclose(gradient, by_autograd, rtol=1e-4, atol=1e-7)


def test_an_empty_part_of_a_batch_has_no_gradient() -> None:
    network = NeuralNet()

    logits = gradients_of(network, PLAIN, CPU)(*batch((1, 28, 28), 10, n=0), n=8)

    assert logits.shape == (0, 10)
    assert [gradient.abs().max().item() for gradient in left_in(network)] == [0] * 6


def test_autograd_has_whatever_is_not_a_chain_of_weights_in_float32() -> None:
    frozen = NeuralNet()
    frozen.layers[1].weight.requires_grad_(False)

    kinds = [
        type(gradients_of(network, hyper, CPU))
        for network, hyper in [
            (Xigua(), PLAIN),
            (frozen, PLAIN),
            (NeuralNet(), PLAIN.override({"precision": "bfloat16"})),
        ]
    ]

    assert kinds == [Autograd] * 3


@pytest.mark.parametrize(("network", "shape"), CHAINS[1:3], ids=["simple_nn", "one_logit"])
def test_a_chain_is_what_its_network_runs(network: Chain, shape: tuple[int, ...]) -> None:
    inputs, _ = batch(shape, 2)

    assert torch.equal(nn.Sequential(*network.chain())(inputs), network(inputs))


def test_a_layer_that_has_no_rule_is_refused() -> None:
    class Dropping(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def chain(self) -> list[nn.Module]:
            return [self.layer, nn.Dropout()]

    with pytest.raises(TypeError, match=r"must be Flatten, Linear, ReLU or Sigmoid\. Given: Dropout"):
        gradients_of(Dropping(), PLAIN, CPU)
