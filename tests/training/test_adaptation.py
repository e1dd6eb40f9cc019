from __future__ import annotations

import logging

import pytest
import torch

from training.adaptation import adapt
from training.data.dataset import Dataset
from training.recipes import RECIPES


def data(n: int, classes: int = 3) -> Dataset:
    labels = torch.arange(n) % classes
    return Dataset("own", "train", torch.zeros(n, 3, 8, 8, dtype=torch.uint8), labels, tuple("abcdefghij"[:classes]))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("n", [6, 16, 60, 144, 700, 8_000, 60_000])
def test_every_recipe_has_batches_epochs_and_validation_that_any_amount_of_data_allows(recipe: str, n: int) -> None:
    before = RECIPES[recipe].hyper

    hyper = adapt(before, data(n), chosen=())

    held_out = len(data(n).hold_out(hyper.held_out)[1]) if hyper.held_out else 0
    assert held_out == 0 or held_out >= 10
    assert bool(hyper.patience) == bool(held_out)
    assert hyper.iterations(n - held_out) >= 1
    assert hyper.epochs >= before.epochs
    assert hyper.batch_size <= before.batch_size


def test_a_small_set_gets_several_small_batches_and_rates_to_match(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        hyper = adapt(RECIPES["cifar10"].hyper, data(144), chosen=())

    assert (hyper.batch_size, hyper.lr, hyper.filter_lr, hyper.epochs) == (16, 0.56, 0.17, 43)
    assert (hyper.held_out, hyper.patience, hyper.small_share, hyper.lr_schedule) == (0.2, 21, 0, "linear")
    assert caplog.messages == [
        "chosen for 144 examples: epochs 43, batch size 16, lr 0.56, lr schedule linear, small share 0.0, "
        "held out 0.2, patience 21"
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 100), ("epochs", 3), ("lr", 2.0), ("held_out", 0.5), ("patience", 1)]
)
def test_what_was_chosen_stays_as_it_is(name: str, value: float) -> None:
    before = RECIPES["cifar10"].hyper.override({name: value})

    assert getattr(adapt(before, data(144), chosen=[name]), name) == value


def test_a_temperature_that_was_given_means_that_nothing_is_held_out() -> None:
    before = RECIPES["cifar10"].hyper.override({"held_out": 0.0, "temperature": 1.5})

    hyper = adapt(before, data(144), chosen=["held_out", "temperature"])

    assert (hyper.held_out, hyper.temperature, hyper.patience) == (0.0, 1.5, 0)
