from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import Metric, ModelManifest
from tests.registries import publish
from training.data.dataset import Dataset
from training.publishing.evaluate import Evaluation, evaluate
from training.publishing.quality_gate import refusal
from training.recipes import find

RECIPE = replace(find("neural_net"), data="points", expected=0.75)


class TheFirstFeatureSays(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([-inputs[:, 0], inputs[:, 0]], dim=1)


def measured(right: int, *, data: str = "points") -> Evaluation:
    """An evaluation with `right` of 100 examples right."""
    inputs = torch.ones(100, 1)
    labels = (torch.arange(100) < right).long()
    return evaluate(TheFirstFeatureSays(), Dataset(data, "test", inputs, labels, ("a", "b")))


def in_production(root: Path, accuracy: float, *, data: str = "points/test") -> ModelManifest:
    return publish(root, metrics=(Metric(name="accuracy", value=accuracy, data=data, n=100),))


def test_a_model_at_its_floor_passes_and_one_below_it_is_refused_with_both_numbers() -> None:
    assert refusal(measured(75), recipe=RECIPE, production=None, tolerance=0) is None
    assert refusal(measured(74), recipe=RECIPE, production=None, tolerance=0) == (
        "accuracy on points/test must be at least 75.00%, the floor of neural_net. Given: 74.00%"
    )


def test_a_model_that_is_worse_than_production_by_more_than_the_tolerance_is_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    production = in_production(tmp_path, 0.9)

    assert refusal(measured(88), recipe=RECIPE, production=production, tolerance=0.025) is None
    assert refusal(measured(87), recipe=RECIPE, production=production, tolerance=0.025) == (
        "accuracy on points/test must be at most 2.50% below the 90.00% of rows@1 in production. Given: 87.00%"
    )


@pytest.mark.parametrize(("measured_on", "served_on"), [("other", "points/test"), ("points", "other/test")])
def test_accuracies_on_different_data_are_not_compared(tmp_path: Path, measured_on: str, served_on: str) -> None:
    evaluation = measured(76, data=measured_on)

    assert (
        refusal(evaluation, recipe=RECIPE, production=in_production(tmp_path, 0.99, data=served_on), tolerance=0)
        is None
    )


def test_other_data_has_no_floor() -> None:
    assert refusal(measured(10, data="other"), recipe=RECIPE, production=None, tolerance=0) is None
