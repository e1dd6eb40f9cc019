from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.contract.manifest import FeatureInput
from service.contract.registry import Registry
from tests.training.conftest import Silent
from tests.training.data.test_pictures import write_cifar10
from training import pipeline
from training.data import sources
from training.data.dataset import Dataset
from training.learning.trainer import train
from training.publishing.export import Exported, export, load
from training.recipes import RECIPES, find
from training.settings import Settings


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].data != "moons"])
def test_every_recipe_for_images_trains_on_grey_28_by_28_and_gives_ten_logits(name: str, digits: Dataset) -> None:
    recipe = find(name)
    hyper = recipe.hyper.override({"epochs": 2, "batch_size": 30, "held_out": 0.0})
    few = digits.subset(60)
    network, preprocessing = recipe.build(few), recipe.preprocessing(few)

    train(network, preprocessing, data=few, hyper=hyper, progress=Silent(), augmentation=recipe.variation(hyper))
    logits = load(export(Exported(preprocessing, network)), torch.device("cpu"))(few.inputs[:5])

    assert logits.shape == (5, 10)
    assert logits.isfinite().all()


def test_the_flagship_for_digits_learns_them_in_seconds() -> None:
    recipe = find("mnist")

    outcome = pipeline.run(
        recipe,
        recipe.hyper.override({"epochs": 3, "batch_size": 50, "augment": False}),
        settings=Settings(device="cpu"),
        progress=Silent(),
        data="digits",
    )

    assert outcome.evaluation.accuracy > 0.95


def test_simple_net_learns_two_moons_and_publishes_two_classes_of_float32_rows(tmp_path: Path) -> None:
    recipe = find("simple_net")

    outcome = pipeline.run(
        recipe,
        recipe.hyper.override({"epochs": 30}),
        settings=Settings(registry=str(tmp_path), device="cpu"),
        progress=Silent(),
        publish_as="simple_net",
    )

    manifest = Registry(tmp_path).manifest("simple_net", 1)
    assert manifest.input == FeatureInput(shape=(2,))
    assert manifest.classes == ("upper", "lower")
    assert outcome.evaluation.data == "moons/test"
    assert outcome.evaluation.accuracy > 0.94


def test_simple_net_has_a_logit_for_each_class_of_a_table_with_three(tmp_path: Path) -> None:
    file = tmp_path / "thirds.csv"
    file.write_text("x,kind\n" + "".join(f"{i},{'abc'[i // 20]}\n" for i in range(60)))
    recipe = find("simple_net")

    outcome = pipeline.run(
        recipe,
        recipe.hyper.override({"batch_size": 8}),
        settings=Settings(device="cpu"),
        progress=Silent(),
        data=f"csv:{file}",
    )

    assert outcome.evaluation.data == "thirds/test"
    assert set(outcome.evaluation.predicted) == {0, 1, 2}


def test_a_recipe_for_cifar10_is_measured_on_the_hold_out_and_on_the_jpegs_each_by_its_name(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data", zipped=True)
    recipe = find("xigua")

    outcome = pipeline.run(
        recipe,
        recipe.hyper.override({"epochs": 1, "held_out": 0.0}),
        settings=Settings(registry=str(tmp_path / "models"), data_dir=tmp_path / "data", device="cpu"),
        progress=Silent(),
        publish_as="xigua",
        force=True,
    )

    manifest = Registry(tmp_path / "models").manifest("xigua", 1)
    assert (outcome.evaluation.data, outcome.evaluation.n) == ("cifar10/holdout", 10)
    assert [(other.data, other.n) for other in outcome.others] == [("cifar10/test-jpeg", 20)]
    whole = [metric for metric in manifest.metrics if not metric.name.startswith("corrupted")]
    assert {(m.data, m.n) for m in whole} == {("cifar10/holdout", 10), ("cifar10/test-jpeg", 20)}
    assert {m.data for m in manifest.metrics if m not in whole} == {"cifar10/holdout"}


@pytest.mark.data
def test_moons_and_mnist_are_where_the_recipes_say(mnist_root: Path) -> None:
    data = {recipe.data for recipe in RECIPES.values() if recipe.data in ("mnist", "moons")}

    assert all(len(sources.load(name, "test", mnist_root)) for name in data)
