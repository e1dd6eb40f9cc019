from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from service.contract.manifest import FeatureInput, ImageInput, ModelManifest, Provenance
from service.contract.registry import Registry, RegistryError
from training.data.dataset import Dataset
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet
from training.publishing.abstention import Abstention
from training.publishing.evaluate import Evaluation, evaluate
from training.publishing.export import Exported, export, load
from training.publishing.publish import golden_sample, input_spec, publish, published

CPU = torch.device("cpu")
PROVENANCE = Provenance(
    recipe="neural_net",
    hyper_parameters={"lr": 0.01},
    dataset="digits/train",
    dataset_digest="ab",
    seed=0,
    commit="unknown",
    torch_version=torch.__version__,
    device="cpu",
    seconds=1.0,
)


def publish_a_fresh_network(root: str, digits_test: Dataset) -> tuple[ModelManifest, Evaluation]:
    ink = replace(digits_test, style="mnist", fit="letterbox")
    artifact = export(Exported(Preprocessing(), NeuralNet()))
    classifier = load(artifact, CPU)
    evaluation = evaluate(classifier, digits_test, temperature=1.5)
    manifest = publish(
        Registry(root),
        "neural_net",
        known=Abstention(artifact),
        golden=golden_sample(Abstention(artifact), digits_test, CPU),
        test=ink,
        evaluations=[evaluation],
        provenance=PROVENANCE,
    )
    return manifest, evaluation


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def test_a_reader_of_the_registry_gets_what_was_measured_and_what_was_trained(root: str, digits_test: Dataset) -> None:
    manifest, evaluation = publish_a_fresh_network(root, digits_test)

    read = Registry(root).manifest("neural_net", 1)

    assert read == manifest
    assert read.input == ImageInput(shape=(1, 28, 28), colour="grey", style="mnist", fit="letterbox")
    assert read.classes == tuple("0123456789")
    assert read.provenance == PROVENANCE
    assert read.temperature == 1.5
    assert {(m.data, m.n) for m in read.metrics} == {("digits/test", 364)}
    assert {m.name: m.value for m in read.metrics} == {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "nll": evaluation.calibrated.nll,
        "brier": evaluation.calibrated.brier,
        "ece": evaluation.calibrated.ece,
        "ece_bound": evaluation.calibrated.ece_bound,
        "ece_uncalibrated": evaluation.uncalibrated.ece,
        "ece_uncalibrated_bound": evaluation.uncalibrated.ece_bound,
    }


def test_the_predictions_on_the_test_split_lie_beside_the_artifact_that_gave_them(
    root: str, digits_test: Dataset
) -> None:
    manifest, _ = publish_a_fresh_network(root, digits_test)
    registry = Registry(root)

    recorded = json.loads(registry.file("neural_net", 1, "evaluation.json"))
    served = load(registry.artifact(manifest), CPU)(digits_test.inputs)

    assert sum(map(sum, recorded["confusion"])) == 364
    assert recorded["calibrated"]["temperature"] == 1.5
    assert (recorded["data"], recorded["n"]) == ("digits/test", 364)
    assert recorded["predicted"] == served.argmax(1).tolist()
    assert recorded["accuracy"] == (served.argmax(1) == digits_test.labels).double().mean().item()


def test_the_golden_sample_is_what_the_artifact_gives_for_the_first_test_images(
    root: str, digits_test: Dataset
) -> None:
    manifest, _ = publish_a_fresh_network(root, digits_test)

    images = torch.frombuffer(bytearray(manifest.golden.raw_inputs()), dtype=torch.uint8).view(
        -1, *manifest.input.shape
    )
    logits = load(Registry(root).artifact(manifest), CPU)(images)

    assert torch.equal(images, digits_test.inputs[:8])
    assert torch.allclose(logits, torch.tensor(manifest.golden.logits), atol=1e-5)


def test_features_are_described_and_sampled_as_float32() -> None:
    rows = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    data = Dataset("moons", "test", rows, torch.tensor([0, 1]), ("left", "right"))

    artifact = export(Exported(Preprocessing(images=False), nn.Linear(2, 1)))

    golden = golden_sample(Abstention(artifact), data, CPU)

    named = replace(data, columns=("height", "width"))
    assert input_spec(data) == FeatureInput(shape=(2,))
    assert input_spec(named) == FeatureInput(shape=(2,), columns=("height", "width"))
    assert base64.b64decode(golden.inputs) == rows.numpy().astype("<f4").tobytes()
    assert [len(row) for row in golden.logits] == [2, 2]


def test_a_colour_dataset_is_a_colour_input() -> None:
    data = Dataset("photos", "test", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1).long(), ("a", "b"))

    assert input_spec(data) == ImageInput(shape=(3, 8, 8), colour="rgb")


def test_a_run_is_another_one_when_a_class_is_called_something_else(tmp_path: Path, digits_test: Dataset) -> None:
    manifest, _ = publish_a_fresh_network(str(tmp_path), digits_test)
    registry, ink = Registry(tmp_path), replace(digits_test, style="mnist", fit="letterbox")
    renamed = replace(ink, classes=("zero", *ink.classes[1:]))

    assert published(registry, "neural_net", PROVENANCE, ink) == manifest
    assert published(registry, "neural_net", PROVENANCE, renamed) is None


def test_a_publish_that_fails_midway_leaves_no_version(
    tmp_path: Path, digits_test: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.publishing.publish.EVALUATION", "no/such\0folder")

    with pytest.raises(RegistryError):
        publish_a_fresh_network(str(tmp_path), digits_test)

    assert Registry(tmp_path).versions("neural_net") == []
    assert Registry(tmp_path).models() == []
