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
from training.data.batches import batches
from training.data.dataset import Dataset
from training.errors import OptionError
from training.learning.trainer import train
from training.networks.whitened_net import WhitenedNet
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


def test_the_last_epochs_of_a_run_vary_their_images_less(digits: Dataset) -> None:
    recipe = find("mnist")
    hyper = recipe.hyper.override(
        {"epochs": 5, "batch_size": 30, "gentle_share": 0.4, "small_share": 0, "shuffle": False}
    )
    few = digits.subset(30)

    varied = [next(iter(batches(few, hyper, epoch, recipe.variation(hyper))))[0] for epoch in range(1, 6)]
    changed = [(images.float() - few.inputs.float()).abs().mean().item() for images in varied]

    assert 0 < max(changed[3:]) < 0.75 * min(changed[:3])
    always = recipe.variation(hyper.override({"gentle_share": 0.0}))
    assert torch.equal(next(iter(batches(few, hyper, 3, always)))[0], varied[2])


@pytest.mark.parametrize("name", ["cifar10", "neural_net"])
def test_a_gentle_end_is_refused_where_there_is_nothing_gentler(name: str) -> None:
    recipe = find(name)

    with pytest.raises(OptionError, match=f"gentle_share must be 0 with {name}, .* Given: 0.5"):
        pipeline.run(recipe, recipe.hyper.override({"gentle_share": 0.5}), settings=Settings(), progress=Silent())


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


def test_standardised_inputs_have_mean_0_and_deviation_1_in_each_channel() -> None:
    photos = torch.randint(40, 90, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photos[:, 1] *= 2
    data = Dataset("photos", "train", photos, torch.arange(20) % 2, ("a", "b"))

    inputs = find("cifar10").preprocessing(data)(photos)

    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_a_feature_that_never_varies_is_no_division_by_zero() -> None:
    data = Dataset("points", "train", torch.tensor([[5.0, 1.0], [5.0, 3.0]]), torch.tensor([0, 1]), ("a", "b"))

    assert find("simple_net").preprocessing(data)(data.inputs).tolist() == [[0.0, -1.0], [0.0, 1.0]]


def test_the_flagship_for_photos_starts_from_whitening_filters(digits: Dataset) -> None:
    torch.manual_seed(0)
    network = find("cifar10").build(digits)

    assert isinstance(network, WhitenedNet)
    before = network.whiten.weight.flatten(1)

    assert torch.equal(before[:4], -before[4:])


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
