from __future__ import annotations

import os

import pytest
import torch
from torch import Generator, Tensor

from training.data.augmentation import Deform
from training.data.batches import Feed, batches
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.networks.preprocessing import Preprocessing

CPU = torch.device("cpu")


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own(digits: Dataset, quick: HyperParameters) -> None:
    first, second = (torch.cat([labels for _, labels in batches(digits, quick, epoch)]) for epoch in (1, 2))

    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, digits.labels.sort().values)
    assert torch.equal(second.sort().values, digits.labels.sort().values)


def test_without_shuffling_the_order_is_that_of_the_dataset(digits: Dataset, quick: HyperParameters) -> None:
    visited = torch.cat([inputs for inputs, _ in batches(digits, quick.override({"shuffle": False}), 2)])

    assert torch.equal(visited, digits.inputs)


@pytest.mark.parametrize("drop_last", [False, True], ids=["all", "drop_last"])
def test_small_batches_are_the_same_examples_in_the_same_order_as_large_ones(
    drop_last: bool, digits: Dataset, quick: HyperParameters
) -> None:
    small = list(batches(digits, quick.override({"batch_size": 60, "drop_last": drop_last}), 1))
    ((inputs, labels),) = batches(digits, quick.override({"batch_size": len(digits)}), 1)

    seen = 1380 if drop_last else len(digits)
    assert [len(batch) for _, batch in small] == [60] * 23 + ([] if drop_last else [53])
    assert torch.equal(torch.cat([batch for batch, _ in small]), inputs[:seen])
    assert torch.equal(torch.cat([batch for _, batch in small]), labels[:seen])


def test_images_of_the_first_epochs_are_small_and_those_of_the_others_are_whole(digits: Dataset) -> None:
    hyper = HyperParameters(epochs=5, batch_size=4, optimiser="sgd", lr=0.5, small_share=0.4)

    sides = [next(batches(digits, hyper, epoch))[0].shape[2:] for epoch in range(1, 6)]

    assert sides == [(21, 21), (21, 21), (28, 28), (28, 28), (28, 28)]


def test_rows_of_features_have_no_size_to_shrink() -> None:
    points = Dataset("points", "train", torch.rand(2, 2), torch.tensor([0, 1]), ("left", "right"))
    hyper = HyperParameters(epochs=2, batch_size=2, optimiser="sgd", lr=0.5, small_share=0.5, shuffle=False)

    inputs, _ = next(batches(points, hyper, 1))

    assert torch.equal(inputs, points.inputs)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_that_other_processes_prepare_are_the_same_bits_in_the_same_order(
    workers: int, digits: Dataset, quick: HyperParameters
) -> None:
    few, hand = digits.subset(300), Deform(degrees=7, stretch=0.07, slant=0.12, move=1.2, bend=0.7)

    here = list(batches(few, quick, 3, hand))
    there = list(batches(few, quick, 3, hand, Feed(CPU, workers)))

    assert len(here) == len(there) == quick.iterations(300)
    assert all(torch.equal(a, b) for pair in zip(here, there, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("feed", [Feed(), Feed(CPU, workers=1)], ids=["gathered", "loader"])
def test_inputs_are_prepared_for_the_network_however_they_are_fed(
    feed: Feed, digits: Dataset, quick: HyperParameters
) -> None:
    preprocessing = Preprocessing((0.1,), (0.3,))

    plain = torch.cat([inputs for inputs, _ in batches(digits, quick, 1)])
    prepared = torch.cat([inputs for inputs, _ in batches(digits, quick, 1, None, feed, prepare=preprocessing)])

    assert torch.equal(prepared, preprocessing(plain))


def test_with_workers_batches_are_prepared_outside_this_process(digits: Dataset, quick: HyperParameters) -> None:
    def who(images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
        del examples, epoch, generator
        return images.new_full((len(images), 1), os.getpid() % 251)

    few = digits.subset(64)

    (here, _), (there, _) = (next(batches(few, quick, 1, who, Feed(CPU, workers))) for workers in (0, 1))

    assert here.unique().item() == os.getpid() % 251
    assert there.unique().item() != os.getpid() % 251


@pytest.mark.gpu
def test_batches_of_data_on_the_host_come_to_the_gpu(digits: Dataset, quick: HyperParameters) -> None:
    device = torch.device("cuda", 0)

    for pin_memory in (False, True):
        inputs, labels = next(batches(digits, quick, 1, None, Feed(device, 1, pin_memory)))
        expected, _ = next(batches(digits, quick, 1))

        assert inputs.device == labels.device == device
        assert torch.equal(inputs.cpu(), expected)
