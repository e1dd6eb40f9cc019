from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.checkpoint import Checkpoints
from training.learning.trainer import EpochResult, train
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import SimpleNN


def fit(network: nn.Module, data: Dataset, epochs: int, checkpoints: Checkpoints | None = None) -> list[EpochResult]:
    hyper = HyperParameters(epochs=epochs, batch_size=len(data), optimiser="lbfgs", lr=1.0, seed=1)
    preprocessing = Preprocessing(images=data.images)
    return train(network, preprocessing, data=data, hyper=hyper, progress=Silent(), checkpoints=checkpoints)


def test_lbfgs_moves_as_torchs_does_over_the_whole_batch() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(20, 3), torch.arange(20) % 2
    network, by_hand = nn.Linear(3, 2), nn.Linear(3, 2)
    by_hand.load_state_dict(network.state_dict())
    optimiser = torch.optim.LBFGS(by_hand.parameters(), lr=1.0)
    first = nn.functional.cross_entropy(by_hand(inputs), labels).item()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(by_hand(inputs), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    data = Dataset("points", "train", inputs, labels, ("a", "b"))
    hyper = HyperParameters(epochs=1, batch_size=20, optimiser="lbfgs", lr=1.0, shuffle=False)
    history = train(network, Preprocessing(images=False), data=data, hyper=hyper, progress=Silent())

    assert history[0].loss == pytest.approx(first)
    assert torch.allclose(network.weight, by_hand.weight, atol=1e-4)
    assert not torch.allclose(network.weight, nn.Linear(3, 2).weight, atol=0.1)


def test_a_step_of_lbfgs_is_worth_many_others(digits: Dataset) -> None:
    torch.manual_seed(0)

    history = fit(SimpleNN(hidden=8), digits.subset(200), 2)

    assert history[1].loss < history[0].loss / 2
