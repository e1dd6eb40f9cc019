from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.contract.registry import Registry
from tests.training.conftest import Silent
from training import pipeline
from training.data import sources
from training.data.augmentation import Deform, Jpeg
from training.data.dataset import Dataset
from training.errors import OptionError, TrainingError
from training.hyper_parameters import HyperParameters
from training.publishing.calibrate import fit_temperature
from training.publishing.export import export, load
from training.recipe import Recipe
from training.recipes import find
from training.settings import Settings

NET = find("neural_net")

pytestmark = pytest.mark.usefixtures("plain_pictures")


def run(registry: Path | str, hyper: HyperParameters, *, recipe: Recipe = NET, **options: Any) -> pipeline.Outcome:
    return pipeline.run(
        recipe,
        hyper,
        settings=Settings(registry=str(registry), device="cpu"),
        progress=Silent(),
        data="digits",
        **options,
    )


def test_a_run_ends_with_a_version_that_holds_what_was_measured(
    tmp_path: Path, quick: HyperParameters, digits: Dataset, digits_test: Dataset
) -> None:
    outcome = run(tmp_path, quick.override({"epochs": 5, "seed": 3}), publish_as="neural_net")

    registry = Registry(tmp_path)
    manifest = registry.manifest("neural_net", 1)
    logits = load(registry.artifact(manifest), torch.device("cpu"))(digits_test.inputs)
    assert outcome.manifest == manifest
    assert outcome.evaluation.accuracy > 0.9
    assert manifest.metrics[0].value == outcome.evaluation.accuracy
    assert list(outcome.evaluation.predicted) == logits.argmax(1).tolist()
    assert json.loads(registry.file("neural_net", 1, "evaluation.json"))["predicted"] == logits.argmax(1).tolist()
    assert manifest.provenance.recipe == "neural_net"
    assert manifest.provenance.seed == 3
    assert manifest.provenance.hyper_parameters["epochs"] == 5
    assert manifest.provenance.dataset == "digits/train"
    assert manifest.provenance.dataset_digest == digits.digest


def test_the_temperature_is_fitted_on_training_examples_that_were_not_trained_on(
    tmp_path: Path, quick: HyperParameters, digits: Dataset, digits_test: Dataset
) -> None:
    outcome = run(tmp_path, quick.override({"epochs": 5, "held_out": 0.2}), publish_as="neural_net")

    registry = Registry(tmp_path)
    manifest = registry.manifest("neural_net", 1)
    _, held_out = digits.hold_out(0.2)
    logits = load(registry.artifact(manifest), torch.device("cpu"))(held_out.inputs)
    assert manifest.temperature == fit_temperature(logits, held_out.labels) != 1.0
    assert outcome.held_out is not None
    assert outcome.held_out.calibrated.nll < outcome.held_out.uncalibrated.nll
    assert outcome.evaluation.calibrated.temperature == manifest.temperature
    measured = {(m.data, m.n) for m in manifest.metrics if not m.name.startswith("corrupted_accuracy")}
    assert measured == {("digits/test", len(digits_test)), ("digits/held-out", len(held_out))}
    assert {(m.name, m.data, m.n) for m in manifest.metrics if m.name.startswith("corrupted_accuracy")} == {
        (name, f"digits/{split}", 4)
        for name in ("corrupted_accuracy", "corrupted_accuracy_worst")
        for split in ("test", "held-out")
    }
    assert manifest.provenance.dataset_digest == digits.digest


def test_where_clients_compress_the_temperature_is_fitted_on_what_was_held_out_both_ways(
    tmp_path: Path, quick: HyperParameters, digits: Dataset
) -> None:
    recipe = replace(NET, sent=Jpeg(1.0, lowest=10, highest=10))

    outcome = run(tmp_path, quick.override({"held_out": 0.2}), recipe=recipe, publish_as="neural_net")

    registry = Registry(tmp_path)
    manifest = registry.manifest("neural_net", 1)
    _, held_out = digits.hold_out(0.2)
    classifier = load(registry.artifact(manifest), torch.device("cpu"))
    both = recipe.as_sent(held_out)
    assert torch.equal(both.inputs[: len(held_out)], held_out.inputs)
    assert 1 < (both.inputs[len(held_out) :].float() - held_out.inputs.float()).abs().mean() < 32
    assert torch.equal(both.labels, torch.cat([held_out.labels] * 2))
    assert manifest.temperature == fit_temperature(classifier(both.inputs), both.labels)
    assert manifest.temperature != fit_temperature(classifier(held_out.inputs), held_out.labels)
    assert outcome.held_out is not None
    assert outcome.held_out.n == len(held_out)


def test_a_split_that_a_recipe_gives_up_sets_what_is_set_on_held_out_examples(
    tmp_path: Path, quick: HyperParameters, digits: Dataset, digits_test: Dataset
) -> None:
    recipe = replace(NET, data="digits", calibrated_on=("test",))

    run(tmp_path, quick.override({"held_out": 0.2}), recipe=recipe, publish_as="neural_net", force=True)

    registry = Registry(tmp_path)
    manifest = registry.manifest("neural_net", 1)
    both = digits.hold_out(0.2)[1].with_more([digits_test])
    logits = load(registry.artifact(manifest), torch.device("cpu"))(both.inputs)
    assert manifest.temperature == fit_temperature(logits, both.labels)
    assert manifest.sets is not None
    assert (manifest.sets.data, manifest.sets.n) == ("digits/held-out and test", len(both))


def test_a_run_that_holds_nothing_out_publishes_the_temperature_it_was_given(
    tmp_path: Path, quick: HyperParameters
) -> None:
    outcome = run(tmp_path, quick.override({"temperature": 1.25}), publish_as="neural_net")

    assert outcome.held_out is None
    assert outcome.evaluation.calibrated.temperature == 1.25
    assert Registry(tmp_path).manifest("neural_net", 1).temperature == 1.25


def test_a_run_ends_gently_where_its_hyper_parameters_say_so(tmp_path: Path, quick: HyperParameters) -> None:
    recipe = replace(find("simple_nn"), augmentation=Deform(40, 0.3, 0.3, 4, 2), gentle=Deform(1, 0, 0, 0, 0))

    rough, gentle = (
        run(tmp_path, quick.override({"gentle_share": share}), recipe=recipe).history for share in (0.0, 0.5)
    )

    assert gentle[0].loss == rough[0].loss
    assert gentle[1].loss < rough[1].loss - 0.05


def test_a_published_version_has_a_card_with_pictures_that_names_it(tmp_path: Path, quick: HyperParameters) -> None:
    run(tmp_path, quick, publish_as="mine")

    registry = Registry(tmp_path)
    text = registry.file("mine", 1, "card.md").decode()
    assert text.startswith("# mine, version 1\n")
    assert "python -m training train neural_net --data digits --name mine --epochs 2 " in text
    for name in ("learning_curve.png", "confusion_matrix.png", "worst_mistakes.png"):
        assert registry.file("mine", 1, name).startswith(b"\x89PNG")


def test_other_splits_of_a_recipe_are_measured_where_their_files_are(
    tmp_path: Path, quick: HyperParameters, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, split: str, data_dir: Path, **_: object) -> Dataset:
        if split == "faded":
            raise TrainingError("it is nowhere")
        return replace(digits("test" if split == "scanned" else split, data_dir), split=split)

    digits = sources.SOURCES["digits"]
    monkeypatch.setattr(sources, "load", load)
    recipe = replace(find("neural_net"), data="digits", splits=("test", "scanned", "faded"), expected=0.1)

    with caplog.at_level(logging.INFO, logger="training"):
        outcome = pipeline.run(
            recipe, quick, settings=Settings(registry=str(tmp_path), device="cpu"), progress=Silent(), publish_as="mine"
        )

    assert [evaluation.data for evaluation in outcome.evaluations] == ["digits/test", "digits/scanned"]
    assert outcome.manifest is not None
    assert {metric.data for metric in outcome.manifest.metrics} == {"digits/test", "digits/scanned"}
    assert "not measured on digits/faded: it is nowhere" in caplog.text


def test_what_is_recorded_comes_from_the_artifact_and_not_from_the_network_in_memory(
    tmp_path: Path, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AlwaysSeven(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.full((len(images),), 7), 10).float()

    monkeypatch.setattr(pipeline, "load", lambda artifact, device: AlwaysSeven())

    outcome = run(tmp_path, quick)

    assert set(outcome.evaluation.predicted) == {7}


def test_an_artifact_that_is_not_the_network_is_not_published(
    tmp_path: Path, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_with_another_bias(model: Any) -> bytes:
        with torch.no_grad():
            model.network.layers[-1].bias[0] += 1
            artifact = export(model)
            model.network.layers[-1].bias[0] -= 1
        return artifact

    monkeypatch.setattr(pipeline, "export", export_with_another_bias)

    with pytest.raises(TrainingError, match="Nothing was published"):
        run(tmp_path, quick, publish_as="neural_net")

    assert Registry(tmp_path).models() == []


def test_a_model_that_is_worse_than_production_is_published_by_force_alone_and_says_so(
    tmp_path: Path, quick: HyperParameters
) -> None:
    run(tmp_path, quick.override({"epochs": 5, "held_out": 0.2}), publish_as="neural_net")
    worse = quick.override({"epochs": 1, "lr": 0.005, "held_out": 0.2})

    refused = run(tmp_path, worse, publish_as="neural_net")
    versions = Registry(tmp_path).versions("neural_net")
    forced = run(tmp_path, worse, publish_as="neural_net", force=True)

    assert (refused.manifest, versions) == (None, [1])
    assert refused.refusal is not None
    assert re.search(r"below the 9\d\.\d\d% of neural_net@1 in production\. Given: \d+\.\d\d%$", refused.refusal)
    assert forced.manifest is not None
    assert forced.manifest.version == 2
    assert forced.manifest.forced == forced.refusal == refused.refusal


def test_a_run_that_holds_other_examples_out_is_not_compared_with_production(
    tmp_path: Path, quick: HyperParameters, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, quick.override({"epochs": 5, "held_out": 0.2}), publish_as="neural_net")

    with caplog.at_level("INFO"):
        outcome = run(tmp_path, quick.override({"epochs": 1, "lr": 0.005, "held_out": 0.3}), publish_as="neural_net")

    assert outcome.manifest is not None
    assert "not compared with neural_net@1 in production, which held other examples out" in caplog.text


def test_force_says_nothing_of_a_model_that_needs_none(tmp_path: Path, quick: HyperParameters) -> None:
    outcome = run(tmp_path, quick, publish_as="neural_net", force=True)

    assert outcome.manifest is not None
    assert outcome.manifest.forced is None


def test_a_production_version_that_cannot_be_read_does_not_stand_in_the_way(
    tmp_path: Path, quick: HyperParameters, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, quick, publish_as="neural_net")
    (tmp_path / "neural_net" / "1" / "manifest.json").write_text("{")

    outcome = run(tmp_path, quick.override({"lr": 0.005}), publish_as="neural_net")

    assert outcome.manifest is not None
    assert outcome.manifest.version == 2
    assert "nothing to compare with" in caplog.text


def test_without_a_name_to_publish_as_nothing_is_written(tmp_path: Path, quick: HyperParameters) -> None:
    outcome = run(tmp_path / "models", quick)

    assert outcome.manifest is None
    assert not (tmp_path / "models").exists()


def test_two_runs_with_one_seed_publish_the_same_weights(tmp_path: Path, quick: HyperParameters) -> None:
    evaluations = [run(tmp_path, quick).evaluation for _ in range(2)]

    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(
    ("registry", "name", "message"),
    [
        ("nonsense://bucket", "neural_net", "registry must be a folder or a URL that fsspec knows"),
        ("models", "Neural Net", r"name must be .*Given: 'Neural Net'"),
    ],
)
def test_what_cannot_be_published_to_is_found_before_training(
    registry: str, name: str, message: str, quick: HyperParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: pytest.fail("it trained"))

    with pytest.raises(OptionError, match=message):
        run(registry, quick, publish_as=name)


def test_the_run_says_on_what_it_trains(
    tmp_path: Path, quick: HyperParameters, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="training"):
        run(tmp_path, quick)

    assert "digits/train, 1,433 examples, on cpu (" in caplog.text


@pytest.mark.data
def test_one_epoch_on_real_mnist_gives_a_plausible_classifier(tmp_path: Path, mnist_root: Path) -> None:
    recipe = find("neural_net")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MNIST").symlink_to(mnist_root / "MNIST")  # alone: CIFAR-10 beside it would be decoded, too

    outcome = pipeline.run(
        recipe,
        recipe.hyper.override({"epochs": 1}),
        settings=Settings(registry=str(tmp_path / "registry"), data_dir=tmp_path / "data", device="cpu"),
        progress=Silent(),
        publish_as="neural_net",
        force=True,  # one epoch of ten is below the floor
    )

    assert outcome.evaluation.data == "mnist/test"
    assert outcome.evaluation.n == 10_000
    assert outcome.evaluation.accuracy > 0.95
    assert Registry(tmp_path / "registry").versions("neural_net") == [1]


def test_another_activation_is_trained_published_and_named_on_the_card(tmp_path: Path, quick: HyperParameters) -> None:
    losses = [run(tmp_path, quick.override({"activation": name})).history[-1].loss for name in ("own", "relu")]

    run(tmp_path, quick.override({"activation": "relu"}), publish_as="relu", force=True)

    assert losses[0] != losses[1]
    assert Registry(tmp_path).manifest("relu", 1).provenance.hyper_parameters["activation"] == "relu"
    card = Registry(tmp_path).file("relu", 1, "card.md").decode()
    assert "784-128-256-10, sigmoid; each activation replaced by relu. 10 classes" in card
    assert "--activation relu" in card


def test_an_activation_is_refused_where_the_network_has_none(tmp_path: Path) -> None:
    recipe = find("xigua")

    with pytest.raises(OptionError, match=r"activation must be own with xigua, which has none\. Given: relu"):
        run(tmp_path, recipe.hyper.override({"activation": "relu"}), recipe=recipe)


def test_the_log_of_a_run_shows_its_network(
    tmp_path: Path, quick: HyperParameters, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(tmp_path, quick)

    assert "(1): Linear(in_features=784, out_features=128, bias=True)\n    (2): Sigmoid()" in caplog.text


def test_details_for_tensorboard_come_with_their_setting(tmp_path: Path, quick: HyperParameters) -> None:
    for details in (False, True):
        folder = tmp_path / f"runs-{details}"
        settings = Settings(device="cpu", runs_dir=folder, tensorboard_details=details)
        pipeline.run(NET, quick, settings=settings, progress=Silent(), data="digits")

        logs = b"".join(file.read_bytes() for file in folder.rglob("events.out.tfevents.*"))
        assert (b"weights/layers.1.weight" in logs) == details
        assert b"test/accuracy" in logs
