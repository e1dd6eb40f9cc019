"""Every recipe on a CUDA device, as far as that goes without one: see `fake_cuda`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Silent
from tests.training.fake_cuda import cuda
from training.data.batches import Feed, batches
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning import device as devices
from training.learning.trainer import ALONE, train
from training.publishing.calibrate import fit_temperature
from training.publishing.evaluate import evaluate, logits_of
from training.publishing.export import Exported, On
from training.publishing.latency import latencies
from training.recipe import Recipe
from training.recipes import RECIPES, find

CUDA = torch.device("cuda", 0)
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "moons": (2,)}


def data_of(recipe: Recipe, n: int = 10) -> Dataset:
    shape = SHAPES[recipe.data]
    inputs = torch.zeros(n, *shape, dtype=torch.float32 if len(shape) == 1 else torch.uint8)
    classes = ("upper", "lower") if recipe.data == "moons" else tuple("0123456789")
    return Dataset(recipe.data, "train", inputs, torch.zeros(n, dtype=torch.int64), classes)


def hyper_of(recipe: Recipe) -> HyperParameters:
    """Two epochs of a step; the first with small images and the second varied gently where the recipe does that."""
    return recipe.hyper.override({"epochs": 2, "batch_size": 10, "gentle_share": 0.5 if recipe.gentle else 0.0})


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "loader"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_is_measured_on_cuda(name: str, resident: bool) -> None:
    recipe = find(name)
    hyper = hyper_of(recipe)
    seen: list[torch.device] = []

    class Watched(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.device)
            logits: Tensor = self.network(images)
            return logits

    with cuda():
        device = ALONE.place(devices.choose("auto"))
        data = data_of(recipe)
        if resident:
            data = data.to(device)
        network = Watched(recipe.build(data)).to(device)
        preprocessing = recipe.preprocessing(data).to(device)
        progress = Silent(always_due=True)
        history = train(
            network,
            preprocessing,
            data=data,
            hyper=hyper,
            progress=progress,
            augmentation=recipe.variation(hyper),
            feed=Feed(device, 0, pin_memory=True),
        )
        weights = [weight.device for weight in network.parameters()]
        classifier = On(Exported(preprocessing, network), device)
        sent = recipe.as_sent(data)
        fit_temperature(logits_of(classifier, sent.inputs), sent.labels)
        evaluation = evaluate(classifier, data, temperature=2.0)

    assert len(history) == 2
    assert min(progress.iterations) == 1
    assert set(seen) == {CUDA}
    assert set(weights) == {CUDA}
    assert evaluation.n == 10


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "loader"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_batch_of_every_recipe_is_on_cuda_and_resident_data_needs_no_loader(
    name: str, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find(name)
    hyper = hyper_of(recipe)
    if resident:
        monkeypatch.setattr("training.data.batches.DataLoader", lambda *_, **__: pytest.fail("data is on the device"))

    with cuda():
        device = ALONE.place(devices.choose("cuda"))
        data = data_of(recipe).to(device) if resident else data_of(recipe)
        feed = Feed(device, 0, pin_memory=True)
        found = [
            (inputs.device, labels.device, len(labels))
            for epoch in (1, 2)
            for inputs, labels in batches(data, hyper, epoch, recipe.variation(hyper), feed)
        ]

    assert found == [(CUDA, CUDA, 10)] * 2


def test_examples_that_are_held_out_on_the_device_stay_there() -> None:
    with cuda():
        data = data_of(find("neural_net")).to(devices.choose("cuda"))
        parts = data.hold_out(0.1)
        found = [tensor.device for part in parts for tensor in (part.inputs, part.labels)]

    assert found == [CUDA] * 4


def test_latencies_are_measured_with_inputs_on_the_device() -> None:
    recipe = find("neural_net")

    with cuda():
        data = data_of(recipe).to(devices.choose("cuda"))
        network = recipe.build(data).to(CUDA)
        measured = latencies(On(Exported(recipe.preprocessing(data).to(CUDA), network), CUDA), data.inputs)

    assert set(measured) == {1, 8, 64, 256}


def test_the_fake_device_refuses_what_a_real_one_would() -> None:
    with cuda():
        there, here = torch.zeros(4, 3, device="cuda"), torch.zeros(4, 3)

        with pytest.raises(RuntimeError, match="device"):
            there + here
        with pytest.raises(RuntimeError, match="device"):
            there.index_select(0, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(RuntimeError, match="cannot pin"):
            there.pin_memory()
        assert there.device == CUDA != torch.device("cuda")


def test_a_dataset_that_is_split_keeps_its_device() -> None:
    with cuda():
        data = data_of(find("mnist")).to(devices.choose("cuda"))
        found = replace(data, split="test").subset(3).inputs.device

    assert found == CUDA
