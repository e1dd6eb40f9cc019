from __future__ import annotations

import pytest
import torch
from torch import nn

from training.hyper_parameters import HyperParameters
from training.learning.distributed import World
from training.learning.optimisers import build_optimiser
from training.learning.step import EagerStep

SGD = HyperParameters(epochs=1, batch_size=4, optimiser="sgd", lr=0.5)
INPUTS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
LABELS = torch.tensor([0, 1, 1])


def step_of(network: nn.Module, hyper: HyperParameters = SGD, world: World | None = None) -> EagerStep:
    optimiser = build_optimiser(network.parameters(), hyper)
    return EagerStep(network, optimiser, hyper, device=torch.device("cpu"), world=world or World())


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def test_a_step_moves_weights_against_the_gradient_of_the_mean_loss() -> None:
    network, by_hand = linear(), linear()
    loss = nn.functional.cross_entropy(by_hand(INPUTS), LABELS)
    loss.backward()

    summed, logits = step_of(network)(INPUTS, LABELS)

    assert by_hand.weight.grad is not None
    assert torch.allclose(network.weight, by_hand.weight - 0.5 * by_hand.weight.grad)
    assert summed.item() == pytest.approx(3 * loss.item())
    assert torch.equal(logits, by_hand(INPUTS))
    assert not summed.requires_grad
    assert not logits.requires_grad


def test_labels_are_smoothed_as_the_hyper_parameters_say() -> None:
    expected = nn.functional.cross_entropy(linear()(INPUTS), LABELS, label_smoothing=0.2, reduction="sum")

    loss, _ = step_of(linear(), SGD.override({"label_smoothing": 0.2}))(INPUTS, LABELS)

    assert loss.item() == pytest.approx(expected.item())


def test_bfloat16_rounds_the_forward_pass_and_leaves_weights_and_logits_in_float32() -> None:
    network = linear()

    _, logits = step_of(network, SGD.override({"precision": "bfloat16"}))(INPUTS, LABELS)

    assert logits.dtype == network.weight.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())
    assert not torch.equal(logits, linear()(INPUTS))


def test_the_parts_of_two_processes_sum_to_the_loss_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sum_gradients", lambda self, parameters: None)
    whole, _ = step_of(linear())(INPUTS, LABELS)

    parts = [step_of(linear(), world=World(rank, 2))(INPUTS, LABELS)[0] for rank in (0, 1)]
    empty, _ = step_of(linear(), world=World(1, 2))(INPUTS[:1], LABELS[:1])

    assert sum(part.item() for part in parts) == pytest.approx(whole.item())
    assert empty.item() == 0
