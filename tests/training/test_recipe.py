from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Silent
from training import pipeline
from training.data.batches import batches
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.networks.preprocessing import Preprocessing
from training.networks.whitened_net import WhitenedNet
from training.recipes import find
from training.settings import Settings


class Elsewhere:
    """A network that a run goes on with, of which only what is here is asked for."""

    name = "mnist-6-0123abcd"
    place = "models/mnist/6"
    normalisation = (0.1307,), (0.3081,)
    activation = "own"

    def expect(self, data: Dataset, hyper: HyperParameters) -> None:
        raise AssertionError

    def put_into(self, network: nn.Module, preprocessing: Preprocessing, inputs: Tensor) -> None:
        raise AssertionError


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


def test_a_run_that_goes_on_has_a_gentle_end_as_long_as_that_of_a_whole_run() -> None:
    recipe = find("mnist")

    shorter = recipe.continued(Elsewhere())

    assert recipe.hyper.gentle_epochs == shorter.hyper.gentle_epochs == 3 < shorter.hyper.epochs < recipe.hyper.epochs


@pytest.mark.parametrize("name", ["cifar10", "neural_net"])
def test_a_gentle_end_is_refused_where_there_is_nothing_gentler(name: str) -> None:
    recipe = find(name)

    with pytest.raises(OptionError, match=f"gentle_share must be 0 with {name}, .* Given: 0.5"):
        pipeline.run(recipe, recipe.hyper.override({"gentle_share": 0.5}), settings=Settings(), progress=Silent())


def test_a_share_of_a_start_is_refused_without_one() -> None:
    recipe = find("neural_net")

    with pytest.raises(
        OptionError, match=r"start_share must be given with --pretrained and a published version\. Given"
    ):
        pipeline.run(recipe, recipe.hyper.override({"start_share": 0.5}), settings=Settings(), progress=Silent())


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
