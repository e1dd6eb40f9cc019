from __future__ import annotations

from typing import Any

import pytest

from training.errors import OptionError
from training.hyper_parameters import HyperParameters

ADAM = HyperParameters(epochs=10, batch_size=64, optimiser="adam", lr=0.01, betas=(0.8, 0.9))


def test_text_from_a_command_line_becomes_values_and_the_rest_stays() -> None:
    hyper = ADAM.override({"lr": "1e-3", "betas": ["0.5", "0.6"], "epochs": "3", "shuffle": False})

    assert (hyper.lr, hyper.betas, hyper.epochs, hyper.shuffle) == (0.001, (0.5, 0.6), 3, False)
    assert hyper.batch_size == ADAM.batch_size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": "0"}, r"lr: .*greater than 0\. Given: 0$"),
        ({"lr": "nan"}, r"lr: "),
        ({"lr": "fast"}, r"lr: .*number.*\. Given: fast$"),
        ({"epochs": "0"}, r"epochs: .*greater than or equal to 1\. Given: 0$"),
        ({"batch_size": "1.5"}, r"batch-size: .*integer.* Given: 1\.5$"),
        ({"optimiser": "lion"}, r"optimiser: .*'adam', .* or 'lbfgs'\. Given: lion$"),
        ({"betas": ["0.9", "1"]}, r"betas: .*less than 1"),
        ({"seed": "-1"}, r"seed: .*Given: -1$"),
        ({"momentum": "0.9"}, r"momentum must be given with the optimiser sgd or muon\. Given: 0\.9 with adam$"),
        ({"filter_lr": "0.5"}, r"filter_lr must be given with the optimiser muon\. Given: 0\.5 with adam$"),
        (
            {"optimiser": "lbfgs", "weight_decay": "0.1"},
            r"weight_decay must be given with the optimiser sgd or .*",
        ),
        ({"limit": "-1"}, r"limit: .*Given: -1$"),
        (
            {"optimiser": "sgd", "nesterov": True},
            r"nesterov must be given with a momentum above 0\. Given: momentum 0$",
        ),
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_one_line_with_what_is_required_and_what_was_given(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as raised:
        ADAM.override(given)

    assert "\n" not in str(raised.value)


def test_another_optimiser_leaves_behind_what_only_the_old_one_has() -> None:
    hyper = ADAM.override({"optimiser": "sgd", "momentum": "0.9"})

    assert hyper.effective() == {
        "epochs": 10,
        "batch_size": 64,
        "limit": 0,
        "patience": 0,
        "activation": "own",
        "pretrained": "",
        "start_share": 0.0,
        "small_share": 0.0,
        "gentle_share": 0.0,
        "optimiser": "sgd",
        "lr": 0.01,
        "lr_schedule": "constant",
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "augment": True,
        "fit": "stretch",
        "size": 0,
        "shuffle": True,
        "drop_last": False,
        "precision": "float32",
        "held_out": 0.0,
        "temperature": 1.0,
    }


def test_a_temperature_is_given_or_fitted_and_never_both() -> None:
    given = ADAM.override({"temperature": "1.5"})

    with pytest.raises(
        OptionError, match=r"temperature must be given with held_out 0, else it is fitted\. Given: 1\.5"
    ):
        given.override({"held_out": "0.1", "temperature": "1.5"})
    assert given.override({"held_out": "0.1"}).temperature == 1.0
    assert given.override({"lr": "1"}).temperature == 1.5
