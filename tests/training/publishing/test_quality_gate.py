from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import Metric, ModelManifest
from tests.registries import publish
from training.data.dataset import Dataset
from training.publishing.evaluate import Evaluation, evaluate
from training.publishing.quality_gate import binomial_tail, refusal, too_few_to_tell
from training.publishing.robustness import Robustness
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


def in_production(root: Path, accuracy: float, *, data: str = "points/held-out") -> ModelManifest:
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

    def refused(right: int) -> str | None:
        held_out = replace(measured(right), data="points/held-out")
        return refusal(measured(75), held_out=held_out, recipe=RECIPE, production=production, tolerance=0.025)

    assert refused(88) is None
    assert refused(87) == (
        "accuracy on points/held-out must be at most 2.50% below the 90.00% of rows@1 in production. Given: 87.00%"
    )


def test_a_model_that_is_worse_by_just_the_tolerance_passes(tmp_path: Path) -> None:
    for right in range(1, 100):
        held_out = replace(measured(right - 1), data="points/held-out")
        production = in_production(tmp_path, right / 100)

        assert refusal(measured(75), held_out=held_out, recipe=RECIPE, production=production, tolerance=0.01) is None


def test_a_test_split_compares_no_versions(tmp_path: Path) -> None:
    production = in_production(tmp_path, 0.99, data="points/test")

    assert refusal(measured(75), recipe=RECIPE, production=production, tolerance=0) is None


def corrupted(*accuracies: float, n: int = 200) -> Robustness:
    """What was measured on copies of held-out examples, by kind, the same at each severity."""
    kinds = {f"kind {i}": (accuracy,) * 5 for i, accuracy in enumerate(accuracies)}
    return Robustness("points/held-out", n, kinds)


def test_a_recipe_may_have_a_floor_for_corrupted_copies_of_held_out_examples() -> None:
    recipe = replace(RECIPE, expected_corrupted=0.8)

    def refused(robustness: Robustness) -> str | None:
        return refusal(measured(75), recipe=recipe, production=None, tolerance=0, robustness=robustness)

    assert refused(corrupted(0.7, 0.9)) is None
    assert refused(corrupted(0.6, 0.9)) == (
        "accuracy on corrupted copies of points/held-out must be at least 80.00%, the floor of neural_net. "
        "Given: 75.00%, at worst 60.00% with kind 0"
    )


def test_a_model_that_is_much_worse_on_corrupted_copies_than_production_is_refused(tmp_path: Path) -> None:
    measure = Metric(name="corrupted_accuracy", value=0.8, data="points/held-out", n=50)
    production = publish(tmp_path, metrics=(measure,))

    def refused(accuracy: float, n: int = 200) -> str | None:
        return refusal(
            measured(75),
            held_out=replace(measured(75), data="points/held-out"),
            recipe=RECIPE,
            production=production,
            tolerance=0.01,
            robustness=corrupted(accuracy, n=n),
        )

    assert refused(0.776) is None
    assert refused(0.774) == (
        "accuracy on corrupted copies of points/held-out must be at most 2.50% below the 80.00% of rows@1 in "
        "production. Given: 77.40%"
    )
    assert refused(0.774, n=199) is None


@pytest.mark.parametrize(("measured_on", "served_on"), [("other", "points/held-out"), ("points", "other/held-out")])
def test_accuracies_on_different_data_are_not_compared(tmp_path: Path, measured_on: str, served_on: str) -> None:
    evaluation = replace(measured(76, data=measured_on), accuracy=0.9)
    held_out = replace(evaluation, data=f"{measured_on}/held-out")
    production = in_production(tmp_path, 0.99, data=served_on)

    assert refusal(evaluation, held_out=held_out, recipe=RECIPE, production=production, tolerance=0) is None


def test_on_other_data_a_model_must_beat_its_most_frequent_class_by_a_binomial_test() -> None:
    few = replace(measured(50, data="other"), accuracy=0.58)  # of 100, half of which are of one class

    assert refusal(few, recipe=RECIPE, production=None, tolerance=0) == (
        "accuracy on other/test must be significantly above the 50.00% of its most frequent class (binomial test, "
        "p at most 0.05). Given: 58.00% of 100, p = 0.067"
    )
    assert refusal(replace(few, accuracy=0.59), recipe=RECIPE, production=None, tolerance=0) is None


def test_the_user_s_own_data_has_no_floor_whatever_its_name() -> None:
    assert refusal(measured(74), recipe=RECIPE, own=True, production=None, tolerance=0) == (
        "accuracy on points/test must be significantly above the 74.00% of its most frequent class (binomial test, "
        "p at most 0.05). Given: 74.00% of 100, p = 0.55"
    )


def test_a_test_split_of_one_class_tells_nothing() -> None:
    refused = refusal(measured(100, data="other"), recipe=RECIPE, production=None, tolerance=0)

    assert refused is not None
    assert refused.endswith("Given: 100.00% of 100, p = 1")


def test_a_network_that_gives_one_class_for_everything_is_refused() -> None:
    assert refusal(measured(90, data="other"), recipe=RECIPE, production=None, tolerance=0) is not None


def test_the_tail_of_a_binomial_distribution_is_exact() -> None:
    for n, share in ((7, 0.25), (40, 0.5), (11, 0.9)):
        for right in range(n + 1):
            exact = sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(right, n + 1))
            assert binomial_tail(right, n, share) == pytest.approx(exact)
    assert binomial_tail(5_200, 10_000, 0.5) == pytest.approx(3.3e-5, rel=0.05)


@pytest.mark.parametrize(("counts", "enough"), [((2, 2), False), ((3, 3), True), ((1, 1, 1), True), ((9, 1), False)])
def test_a_test_split_that_cannot_tell_even_a_perfect_model_from_guessing_is_known_before(
    counts: tuple[int, ...], enough: bool
) -> None:
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    test = Dataset("own", "test", torch.zeros(len(labels), 1), labels, tuple("abc"[: len(counts)]))

    assert (too_few_to_tell(test) is None) == enough
