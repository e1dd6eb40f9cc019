from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.blend import Blend
from training.learning.checkpoint import Checkpoints
from training.learning.trainer import train
from training.networks.preprocessing import Preprocessing

HYPER = HyperParameters(epochs=2, batch_size=50, optimiser="sgd", lr=0.1, start_share=0.25)


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 26 * 26, 10))


def trained(network: nn.Module, digits: Dataset, hyper: HyperParameters, folder: Path | None = None) -> nn.Module:
    checkpoints = Checkpoints(folder, resume=True) if folder is not None else None
    data = digits.subset(100)
    train(network, Preprocessing(), data=data, hyper=hyper, progress=Silent(), checkpoints=checkpoints)
    return network


def test_a_run_ends_with_its_share_of_the_weights_that_it_began_with(digits: Dataset) -> None:
    start, end = normed().state_dict(), trained(normed(), digits, HYPER.override({"start_share": 0.0})).state_dict()

    both = trained(normed(), digits, HYPER).state_dict()

    assert not torch.allclose(start["3.weight"], end["3.weight"], atol=1e-3)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"):
        assert torch.allclose(both[name], 0.25 * start[name] + 0.75 * end[name], atol=1e-6), name


def test_batch_norms_compute_with_the_statistics_of_the_averaged_network(digits: Dataset) -> None:
    network = trained(normed(), digits, HYPER)

    seen = network[0](Preprocessing()(digits.subset(100).inputs))  # type: ignore[index]
    norm = network[1]  # type: ignore[index]
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), rtol=0.02)
    assert norm.momentum == 0.1
    assert network.training


def test_a_run_that_resumes_after_its_end_has_the_same_weights_again(digits: Dataset, tmp_path: Path) -> None:
    once = trained(normed(), digits, HYPER, tmp_path).state_dict()

    again = trained(normed(), digits, HYPER, tmp_path).state_dict()

    assert all(torch.equal(again[name], value) for name, value in once.items())


def test_without_a_share_nothing_changes() -> None:
    network = nn.BatchNorm1d(1)
    blend = Blend(network, 0.0)
    network.weight.data.fill_(7.0)

    assert not blend.finish()
    assert network.weight.item() == 7.0
