"""A version is published once more with evidence for its forms, and is the same version otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.contract.manifest import Artifact, ModelManifest
from service.contract.registry import Registry
from tests.registries import publish
from training.cli.command_line import main
from training.data import sources
from training.data.dataset import Dataset
from training.publishing.equivalence import Equivalence

CHANGED = {"version", "created", "forms", "half_precision", "artifact"}
"""The artifact gives the same logits and scores, but its scores were added anew."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a version that was published before half precision was measured."""
    root = tmp_path_factory.mktemp("registry")
    runs = str(tmp_path_factory.mktemp("runs"))
    options = ["--registry", str(root), "--runs-dir", runs, "--device", "cpu", "--epochs", "1", "--publish", "--force"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.pipeline.equivalence", lambda *_: Equivalence(("channels_last",), ()))
        assert main(["train", "neural_net", "--data", "digits", "--name", "digits", *options]) == 0
    return root


def republished(root: Path) -> tuple[int, ModelManifest]:
    code = main(["republish", "digits", "--registry", str(root), "--device", "cpu"])
    registry = Registry(root)
    return code, registry.manifest("digits", registry.versions("digits")[-1])


def test_the_next_version_has_the_same_network_and_new_evidence(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Registry(trained).manifest("digits", 1)

    code, manifest = republished(trained)

    assert code == 0
    assert manifest.version > before.version
    assert manifest.model_dump(exclude=CHANGED) == before.model_dump(exclude=CHANGED)
    assert {"channels_last", "float16"} <= set(manifest.forms)
    (evidence,) = (each for each in manifest.half_precision if each.form == "float16")
    assert (evidence.data, evidence.n) == ("digits/test", 364)
    assert evidence.agreement >= 0.999
    assert f"published digits@{manifest.version}" in capsys.readouterr().out


def test_it_keeps_decoded_pictures_where_training_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINING_CACHE_DIR", str(tmp_path / "decoded"))
    caches = []
    load = sources.load

    def noted(*arguments: Any, **options: Any) -> Dataset:
        caches.append(options["cache"].folder)
        return load(*arguments, **options)

    monkeypatch.setattr(sources, "load", noted)

    republished(trained)

    assert set(caches) == {tmp_path / "decoded"}


def test_its_card_is_true_and_its_other_files_are_the_same(trained: Path) -> None:
    _, manifest = republished(trained)
    registry = Registry(trained)
    before = registry.manifest("digits", manifest.version - 1)

    card = registry.file("digits", manifest.version, "card.md").decode()

    assert card.startswith(f"# digits, version {manifest.version}\n")
    assert f"The network is that of version {before.version}; everything was measured again." in card
    assert "| float16 | digits/test | 364 | " in card
    for name in ("evaluation.json", "learning_curve.png", "confusion_matrix.png", "worst_mistakes.png"):
        assert registry.file("digits", manifest.version, name) == registry.file("digits", 1, name)


def test_a_version_whose_accuracy_here_is_another_is_not_published(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(tmp_path)
    before = Registry(trained).manifest("digits", 1)
    metrics = tuple(m.model_copy(update={"value": 0.999}) if m.name == "accuracy" else m for m in before.metrics)

    def describe(version: int, file: object) -> ModelManifest:
        return before.model_copy(update={"version": version, "artifact": file, "metrics": metrics})

    card = {"card.md": Registry(trained).file("digits", 1, "card.md")}
    registry.publish("digits", Registry(trained).artifact(before), describe, files=lambda manifest: card)

    code = main(["republish", "digits", "--registry", str(tmp_path), "--device", "cpu"])

    assert code == 1
    assert "digits/test must give digits@1 its published accuracy, 99.90% of 364. Given: " in capsys.readouterr().err
    assert registry.versions("digits") == [1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "mine/test"}, "only a version of one of the data sets mnist, digits, .* Given: digits@1, of mine"),
        ({"classes": tuple("abcdefghij")}, "digits/test must be what digits@1 was measured on. Given: other classes"),
    ],
    ids=["other data", "data of the same name"],
)
def test_a_version_of_the_users_own_data_is_refused(
    change: dict[str, Any], said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, registry = Registry(trained).manifest("digits", 1), Registry(tmp_path)
    metrics = tuple(metric.model_copy(update={"data": change.get("data", metric.data)}) for metric in before.metrics)
    changed = before.model_copy(update={"metrics": metrics, "classes": change.get("classes", before.classes)})

    def describe(version: int, file: Artifact) -> ModelManifest:
        return changed.model_copy(update={"version": version, "artifact": file})

    registry.publish("digits", Registry(trained).artifact(before), describe)

    code = main(["republish", "digits", "--registry", str(tmp_path), "--device", "cpu"])

    assert code == 1
    assert re.search(said, capsys.readouterr().err)
    assert registry.versions("digits") == [1]


def test_several_registries_are_refused_before_anything_is_measured(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["republish", "digits", "--registry", f"{trained},models", "--device", "cpu"])

    assert code == 2
    assert "registry must be one folder or URL, to publish to. Given: " in capsys.readouterr().err


def test_a_version_without_metrics_has_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, "rows")

    code = main(["republish", "rows", "--registry", str(tmp_path), "--device", "cpu"])

    assert code == 1
    assert "only an image model with metrics has forms to compare. Given: rows@1" in capsys.readouterr().err


def test_a_version_of_earlier_code_gets_what_training_would_have_set_and_measured(
    trained: Path, tmp_path: Path
) -> None:
    before = Registry(trained).manifest("digits", 1)
    registry = Registry(tmp_path)
    old = {
        "temperature": 3.0,
        "distributions": None,
        "metrics": tuple(m for m in before.metrics if m.name in ("accuracy", "loss")),
    }

    def describe(version: int, file: object) -> ModelManifest:
        return before.model_copy(update={"version": version, "artifact": file, **old})

    card = {"card.md": Registry(trained).file("digits", 1, "card.md")}
    registry.publish("digits", Registry(trained).artifact(before), describe, files=lambda manifest: card)

    code, manifest = republished(tmp_path)

    assert code == 0
    assert manifest.model_dump(exclude=CHANGED) == before.model_dump(exclude=CHANGED)
    assert manifest.distributions is not None
    assert registry.file("digits", 2, "evaluation.json") == Registry(trained).file("digits", 1, "evaluation.json")
