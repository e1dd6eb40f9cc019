from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning import trainer
from training.learning.checkpoint import Checkpoints
from training.learning.trainer import EpochResult, train
from training.learning.validation import Validation, validate
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet


def test_validation_is_the_mean_over_all_examples_in_evaluation_mode(digits: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    found = validate(network, Preprocessing(), digits.subset(300), torch.device("cpu"))

    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    logits = network.eval()(digits.subset(300).inputs / 255)
    assert found.loss == pytest.approx(cross_entropy(logits, digits.labels[:300]).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == digits.labels[:300]).double().mean().item())


def scripted(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Validation losses in that order, and the weights that each of them is of."""
    seen: list[dict[str, torch.Tensor]] = []

    def measured(network: nn.Module, *_: object) -> Validation:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return Validation(losses[len(seen) - 1], 0.5)

    monkeypatch.setattr(trainer, "validate", measured)
    return seen


def fit(
    digits: Dataset, hyper: HyperParameters, checkpoints: Checkpoints | None = None
) -> tuple[nn.Module, list[EpochResult]]:
    torch.manual_seed(0)
    network = NeuralNet()
    few = digits.subset(64)
    history = train(
        network, Preprocessing(), data=few, hyper=hyper, progress=Silent(), held_out=few, checkpoints=checkpoints
    )
    return network, history


def equal(network: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_run_stops_when_it_has_waited_long_enough_and_keeps_its_best_epoch(
    digits: Dataset, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted([3.0, 1.0, 2.0, 1.5, 0.1, 0.1], monkeypatch)

    network, history = fit(digits, quick.override({"epochs": 6, "held_out": 0.5, "patience": 2}))

    assert [epoch.validation_loss for epoch in history] == [3.0, 1.0, 2.0, 1.5]
    assert equal(network, seen[1])
    assert not equal(network, seen[3])


def test_without_patience_the_last_epoch_is_kept(
    digits: Dataset, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted([1.0, 2.0, 3.0], monkeypatch)

    network, history = fit(digits, quick.override({"epochs": 3, "held_out": 0.5}))

    assert len(history) == 3
    assert equal(network, seen[2])


def test_a_resumed_run_remembers_its_best_epoch_and_that_it_has_stopped(
    digits: Dataset, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = scripted([1.0, 2.0, 3.0], monkeypatch)
    hyper = quick.override({"epochs": 9, "held_out": 0.5, "patience": 2})
    fit(digits, hyper, Checkpoints(tmp_path))

    network, history = fit(digits, hyper, Checkpoints(tmp_path, resume=True))

    assert len(history) == len(seen) == 3
    assert equal(network, seen[0])
