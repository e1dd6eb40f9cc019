from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.model.torchscript import TorchScriptError
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet
from training.publishing.evaluate import logits_of
from training.publishing.export import Exported, check, export, load

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Logits: the mean of what arrives, and its square."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([mean, mean * mean], dim=1)


def test_the_artifact_normalises_uint8_by_itself() -> None:
    artifact = load(export(Exported(Preprocessing(mean=(0.5,), std=(0.25,)), Brightness())), CPU)

    logits = artifact(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))

    assert logits[0].tolist() == pytest.approx([(1 - 0.5) / 0.25, 4.0])
    assert logits.dtype == torch.float32


def test_the_artifact_refuses_an_image_that_somebody_normalised_already() -> None:
    artifact = load(export(Exported(Preprocessing(), Brightness())), CPU)

    with pytest.raises(TorchScriptError, match="AssertionError"):
        artifact(torch.ones(1, 1, 2, 2))


def test_each_channel_has_a_mean_and_a_deviation_of_its_own() -> None:
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)

    normalised = Preprocessing(mean=(0.0, 0.1, 0.2), std=(1.0, 0.5, 0.1))(images)

    assert normalised[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.0], abs=1e-6)


def test_without_mean_and_deviation_an_image_becomes_what_totensor_makes_of_it() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)

    normalised = Preprocessing()(images)

    assert torch.allclose(normalised, images.float() / 255, atol=1e-7, rtol=0)


def test_features_that_are_normalised_are_left_as_they_were() -> None:
    features = torch.rand(3, 2)
    before = features.clone()

    normalised = Preprocessing(mean=(1.0, 2.0), std=(2.0, 2.0), images=False)(features)

    assert torch.equal(features, before)
    assert not torch.equal(normalised, before)


def test_a_feature_model_takes_float32_rows() -> None:
    model = Exported(Preprocessing(mean=(1.0, 2.0), std=(2.0, 2.0), images=False), nn.Identity())

    logits = load(export(model), CPU)(torch.tensor([[3.0, 2.0]]))

    assert logits.tolist() == [[1.0, 0.0]]


def test_one_raw_logit_is_exported_as_two_classes_whose_softmax_is_its_sigmoid() -> None:
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    rows = torch.randn(5, 2)
    artifact = load(export(Exported(Preprocessing(images=False), network)), CPU)

    probabilities = artifact(rows).softmax(1)

    assert probabilities.shape == (5, 2)
    assert torch.allclose(probabilities[:, 1], network(rows)[:, 0].sigmoid(), atol=1e-6)


def test_the_artifact_is_frozen_in_evaluation_mode_and_the_network_left_as_it_was() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)).train()
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    artifact = load(export(Exported(Preprocessing(), network)), CPU)

    twice = artifact(images), artifact(images)

    assert torch.equal(*twice)
    assert not list(artifact.parameters())
    assert network.training


def test_the_artifact_does_not_tell_where_on_this_machine_it_was_made() -> None:
    artifact = zipfile.ZipFile(io.BytesIO(export(Exported(Preprocessing(), NeuralNet()))))

    content = b"".join(artifact.read(name) for name in artifact.namelist())

    assert str(Path(__file__).parents[3]).encode() not in content
    assert b"preprocessing.py" not in content


def test_network_and_artifact_agree_on_every_image_in_batches_of_1_7_and_256(digits_test: Dataset) -> None:
    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            logits: Tensor = artifact(images)
            return logits

    model = Exported(Preprocessing(), NeuralNet())
    artifact = load(export(model), CPU)
    sizes: list[int] = []

    check(model, Watched(), digits_test.inputs)

    assert sizes == [1] * 364 + [7] * 52 + [256, 108]


@pytest.mark.parametrize("nudge", [0.01, float("nan")])
def test_an_artifact_whose_logits_differ_is_refused(digits_test: Dataset, nudge: float) -> None:
    network = NeuralNet()
    model = Exported(Preprocessing(), network)
    artifact = load(export(model), CPU)
    with torch.no_grad():
        list(network.parameters())[-1].add_(nudge)

    with pytest.raises(TrainingError, match=r"logits to within 0\.001\. Given: .* Nothing was published"):
        check(model, artifact, digits_test.inputs)


def test_an_artifact_whose_class_differs_is_refused_however_close_the_logits(digits_test: Dataset) -> None:
    class AlmostATie(nn.Module):
        def __init__(self, second: float) -> None:
            super().__init__()
            self.second = second

        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[0.0, self.second]]).repeat(len(images), 1)

    with pytest.raises(TrainingError, match=r"364 of 364 classes differ"):
        check(
            Exported(Preprocessing(), AlmostATie(1e-6)),
            load(export(Exported(Preprocessing(), AlmostATie(-1e-6))), CPU),
            digits_test.inputs,
        )


def test_an_artifact_that_depends_on_the_batch_size_is_refused(digits_test: Dataset) -> None:
    class DividesByTheBatch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, 300:302] / float(len(images))

    model = Exported(Preprocessing(), DividesByTheBatch())

    with pytest.raises(TrainingError, match="in batches of 1"):
        check(model, load(export(model), CPU), digits_test.inputs)


def test_logits_do_not_depend_on_how_inputs_are_batched(digits_test: Dataset) -> None:
    artifact = load(export(Exported(Preprocessing(), NeuralNet())), CPU)

    one, many = (logits_of(artifact, digits_test.inputs, batch_size=size) for size in (1, 364))

    assert torch.allclose(one, many, atol=1e-5)
