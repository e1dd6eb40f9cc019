"""A loaded version computes what its manifest promises, or does not load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import FeatureInput
from service.contract.registry import Registry
from service.contract.variants import Form
from service.model.model import Model, UnfitModelError
from service.model.outputs import Outputs
from tests.registries import RGB, BrightestRow, FirstFeature, artifact_of, publish


class AlwaysNaN(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, :10].float().sum(dim=2) * float("nan")


class NineClasses(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, :9].float().sum(dim=2) / 255


class Greedy(nn.Module):
    """Asks for more memory than any machine has."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.ones(1 << 50)[:10].expand(len(images), 10)


class OnlyPairs(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.view(2, -1)[:, :10].float()


class OnlyFloats(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ torch.ones(784, 10)


class Scored(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = images[:, 0, :10].float().sum(dim=2) / 255
        return logits, logits.sum(1)


class OneRowForAll(nn.Module):
    """Right for the two images of the golden sample, and wrong for any other number."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:2, 0, :10].float().sum(dim=2) / 255


def load(root: Path, module: nn.Module | None = None, **options: Any) -> Model:
    manifest = publish(root, "rows", module, **options)
    return Model(manifest, Registry(root).artifact(manifest))


def rows(*class_ids: int) -> bytearray:
    pixels = np.zeros((len(class_ids), 28, 28), np.uint8)
    pixels[np.arange(len(class_ids)), class_ids] = 255
    return bytearray(pixels.tobytes())


def test_a_batch_gives_a_class_its_probability_and_the_logits_of_each_image(tmp_path: Path) -> None:
    model = load(tmp_path)

    outputs = model.run(model.batch(rows(7, 0, 9)))

    assert outputs.class_ids.tolist() == [7, 0, 9]
    assert outputs.logits.tolist() == [[28.0 * (k == class_id) for k in range(10)] for class_id in (7, 0, 9)]
    assert outputs.confidences.tolist() == pytest.approx([1.0] * 3)
    assert [column.dtype for column in outputs] == [np.int32, np.float32, np.float32, np.float32]


def test_probabilities_are_those_of_the_logits_over_the_temperature(tmp_path: Path) -> None:
    sharp, soft = load(tmp_path), load(tmp_path, temperature=28.0)

    confidences = [model.run(model.batch(rows(7))).confidences.item() for model in (sharp, soft)]

    assert confidences[0] == pytest.approx(1.0, abs=1e-6)
    assert confidences[1] == pytest.approx(np.e / (np.e + 9), abs=1e-6)


def test_colour_and_features_are_given_in_the_shape_that_the_manifest_says(tmp_path: Path) -> None:
    colour = load(tmp_path / "colour", spec=RGB)
    features = load(
        tmp_path / "features", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive")
    )

    pictures = colour.batch(bytearray(2 * 3 * 32 * 32))
    vectors = features.batch(bytearray(np.array([[1, 2], [-3, 4]], "<f4").tobytes()))

    assert (pictures.shape, pictures.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert vectors.tolist() == [[1, 2], [-3, 4]]
    assert features.run(vectors).class_ids.tolist() == [1, 0]


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_an_input_alone_is_classified_as_among_others(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(scale=5, size=(50, classes)).astype(np.float32)
    logits[:6, :2] = np.array([[9, 9], [np.nan, 0], [0, np.nan], [np.inf, 0], [-np.inf, 0], [1e30, 0]])
    scores = np.arange(50, dtype=np.float32)

    together = Outputs.of(logits, scores, temperature=0.7)
    alone = [Outputs.of(logits[i : i + 1], scores[i : i + 1], temperature=0.7) for i in range(50)]

    for column, columns in zip(together, zip(*alone, strict=True), strict=True):
        joined = np.concatenate(columns)
        assert joined.dtype == column.dtype
        np.testing.assert_allclose(joined, column, rtol=1e-5)
    assert together.class_ids[1:4].tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(together.class_ids[4:], logits[4:].argmax(axis=1))


def test_what_stands_for_a_failed_image_joins_with_what_did_not_fail(tmp_path: Path) -> None:
    model = load(tmp_path)

    joined = Outputs.join(model.run(model.batch(rows(3))), model.failed())

    assert joined.class_ids.tolist() == [3, -1]
    assert joined.class_ids.dtype == np.int32
    assert np.isnan(joined.confidences[1])
    assert joined.logits.shape == (2, 10)


def test_scores_that_the_manifest_does_not_promise_are_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"rows@1: golden scores must be \[0\]. Given: \[2\]"):
        load(tmp_path, artifact=artifact_of(Scored()))


def test_a_version_is_called_by_its_name_and_number(tmp_path: Path) -> None:
    load(tmp_path)

    assert str(load(tmp_path)) == "rows@2"


def test_an_artifact_that_is_no_module_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"rows@1: .* must be a TorchScript module"):
        load(tmp_path, artifact=b"not a module")


def test_other_logits_than_the_golden_samples_are_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"golden logits must be within 0\.001 .* Given: off by"):
        load(tmp_path, logits=[[0.0] * 10, [0.0] * 10])


def test_logits_within_the_tolerance_are_fit_and_beyond_it_are_not(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    artifact = Registry(tmp_path).artifact(manifest)

    def off_by(difference: float) -> Model:
        logits = tuple(tuple(x + difference for x in row) for row in manifest.golden.logits)
        golden = manifest.golden.model_copy(update={"logits": logits})
        return Model(manifest.model_copy(update={"golden": golden}), artifact)

    assert off_by(0.0009)
    with pytest.raises(UnfitModelError, match="off by"):
        off_by(0.0011)


def test_a_model_that_computes_no_numbers_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match="off by nan"):
        load(tmp_path, artifact=artifact_of(AlwaysNaN()))


def test_a_model_that_asks_for_more_memory_than_there_is_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"the golden sample must compute\. Given: [\s\S]*allocate memory"):
        load(tmp_path, artifact=artifact_of(Greedy()))


def test_another_number_of_classes_than_the_manifests_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"golden logits must be \[2, 10\]\. Given: \[2, 9\]"):
        load(tmp_path, artifact=artifact_of(NineClasses()))


def test_a_model_that_takes_another_type_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"the golden sample must compute\. Given: "):
        load(tmp_path, artifact=artifact_of(OnlyFloats()))


@pytest.mark.parametrize("module", [OnlyPairs(), OneRowForAll()], ids=["raises", "answers fewer"])
def test_a_model_that_cannot_compute_every_batch_size_is_unfit_by_its_warm_up(
    tmp_path: Path, module: nn.Module
) -> None:
    model = load(tmp_path, artifact=artifact_of(module), logits=module(golden_images()).tolist())

    with pytest.raises(UnfitModelError, match=r"rows@1: a batch of [13] must compute\. Given: "):
        model.warm_up(4)


def golden_images() -> Tensor:
    return torch.arange(2 * 784).remainder(251).to(torch.uint8).view(2, 1, 28, 28)


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 5]), (100, [1, 2, 3, 100])],
)
def test_a_warm_up_runs_small_large_and_odd_sizes(tmp_path: Path, largest: int, expected: list[int]) -> None:
    sizes: list[int] = []

    class Watched(Model):
        def run(self, inputs: Tensor) -> Outputs:
            sizes.append(len(inputs))
            return super().run(inputs)

    manifest = publish(tmp_path, "rows", BrightestRow())
    model = Watched(manifest, Registry(tmp_path).artifact(manifest))
    sizes.clear()

    model.warm_up(largest)

    assert sizes == expected


@pytest.mark.gpu
def test_a_model_on_a_gpu_answers_on_the_cpu(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    model = Model(manifest, Registry(tmp_path).artifact(manifest), Form(device="cuda"))

    outputs = model.run(model.batch(rows(7, 2)))

    assert outputs.class_ids.tolist() == [7, 2]
    assert outputs.logits[0].argmax() == 7
