from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.distributed import World
from training.learning.norms import measure_norms
from training.learning.trainer import ALONE, train
from training.networks.preprocessing import Preprocessing


def test_the_average_that_asgd_ends_with_has_batch_norms_of_its_own(digits: Dataset) -> None:
    hyper = HyperParameters(epochs=2, batch_size=50, optimiser="asgd", lr=0.5)
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
    network = nn.Sequential(convolution, norm, nn.Flatten(), nn.Linear(3 * 26 * 26, 10))

    train(network, Preprocessing(), data=digits.subset(100), hyper=hyper, progress=Silent())

    seen = convolution(Preprocessing()(digits.subset(100).inputs))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)


def test_no_more_examples_than_are_needed_are_prepared() -> None:
    given = []

    def batches() -> Iterator[Tensor]:
        for batch in range(100):
            given.append(batch)
            yield torch.zeros(1000, 1)

    measure_norms(nn.BatchNorm1d(1), batches(), world=ALONE)

    assert len(given) == 6


def test_processes_whose_parts_differ_by_an_example_measure_on_the_same_batches() -> None:
    drawn = [0, 0]
    for rank in (0, 1):

        def batches(rank: int = rank) -> Iterator[Tensor]:
            for _ in range(200):
                drawn[rank] += 1
                yield torch.zeros(101, 1)

        measure_norms(nn.BatchNorm1d(1), batches(), world=World(rank, 2))

    assert drawn == [60, 60]  # else one process would wait for the other for ever


def test_without_batch_norms_no_batch_is_prepared() -> None:
    measure_norms(nn.Linear(1, 1), (pytest.fail("a batch was prepared") for _ in range(1)), world=ALONE)
