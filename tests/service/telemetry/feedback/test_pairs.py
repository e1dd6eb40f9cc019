"""Pairs and their images in a folder, which is bounded and never loses what people labelled."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.contract.manifest import FeatureInput
from service.engine.served_models import ServedModel
from service.images.decode import picture
from service.telemetry.feedback import pairs as module
from service.telemetry.feedback.pairs import Pairs
from service.telemetry.feedback.recent import NO_CLASS, Remembered
from tests.registries import FirstFeature, publish
from training.data import sources


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    names = (*"01234567", "../etc", "x" * 300)
    return ServedModel(publish(tmp_path_factory.mktemp("registry"), classes=names), default=True)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    spec = FeatureInput(shape=(2,))
    root = tmp_path_factory.mktemp("features")
    return ServedModel(publish(root, "sign", FirstFeature(), spec=spec, classes=("no", "yes")), default=True)


def prediction(model: ServedModel, class_id: int = 7, data: bytes | None = None, place: int = 0) -> Remembered:
    return Remembered(0, place, 1.0, 2, model, class_id, 0.87654321, data)


def keeping(folder: Path, **changes: Any) -> Pairs:
    return Pairs(folder, **{"keeps_inputs": True, "image_bytes": 10**6, **changes})


def digit(model: ServedModel) -> bytes:
    return np.arange(model.input_bytes).astype(np.uint8).tobytes()


def lines(pairs: Pairs) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pairs.read().splitlines()]


def test_a_pair_says_what_was_predicted_and_what_is_true(tmp_path: Path, model: ServedModel) -> None:
    pairs = keeping(tmp_path / "new")

    given = pairs.add("id", prediction(model), 3)
    pairs.add("id", prediction(model, NO_CLASS), 4)

    first, second = lines(pairs)
    assert given == first | {"kept": True}
    assert first.pop("time").endswith("Z")
    assert first == {
        "request_id": "id",
        "index": 2,
        "model": "rows",
        "version": 1,
        "prediction": "7",
        "probability": 0.876543,
        "truth": "3",
        "image": None,
    }
    assert (second["prediction"], second["probability"]) == (None, None)


def test_the_image_is_kept_as_the_model_saw_it_and_can_be_trained_on(tmp_path: Path, model: ServedModel) -> None:
    pairs = keeping(tmp_path)

    kept = [pairs.add("id", prediction(model, data=digit(model), place=i), i % 2)["image"] for i in range(4)]

    with Image.open(io.BytesIO((tmp_path / kept[0]).read_bytes())) as image:
        assert np.asarray(image).tobytes() == digit(model)
    data = sources.load(f"folder:{tmp_path / 'images' / 'rows'}", "train", tmp_path)
    assert set(data.classes) == {"0", "1"}


def test_images_are_kept_in_no_folder_that_was_not_asked_for(tmp_path: Path, model: ServedModel) -> None:
    pairs = keeping(tmp_path, keeps_inputs=False)

    assert pairs.add("id", prediction(model, data=digit(model)), 3)["image"] is None
    assert [path.name for path in tmp_path.rglob("*")] == ["pairs.jsonl"]


def test_the_features_of_a_model_that_takes_such_are_kept(tmp_path: Path, features: ServedModel) -> None:
    data = np.array([0.5, -2.0], np.float32).tobytes()

    assert keeping(tmp_path).add("id", prediction(features, 1, data), 0)["features"] == [0.5, -2.0]


def test_no_class_leads_out_of_the_folder(tmp_path: Path, model: ServedModel) -> None:
    pairs = keeping(tmp_path / "inside")

    kept = [pairs.add("id", prediction(model, data=digit(model)), class_id)["image"] for class_id in (8, 9)]

    assert [Path(image).parent.name for image in kept] == ["class-8", "class-9"]
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_full_folder_takes_no_more_images_until_there_is_room(
    tmp_path: Path, model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(picture(digit(model), model.manifest.input))  # type: ignore[arg-type]
    pairs = keeping(tmp_path, image_bytes=2 * size)
    kept = [pairs.add("id", prediction(model, data=digit(model), place=i), 3)["image"] for i in range(3)]
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    again = pairs.add("id", prediction(model, data=digit(model)), 3)["image"]
    (tmp_path / kept[0]).unlink()

    assert [image is None for image in kept] == [False, False, True]
    assert again is None
    assert "further ones are not kept" in caplog.text
    assert pairs.add("id", prediction(model, data=digit(model)), 3)["image"]
    assert len(lines(pairs)) == 5


def test_a_full_file_takes_no_more_pairs(
    tmp_path: Path, model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 200)
    pairs = keeping(tmp_path)

    assert [pairs.add("id", prediction(model), 3)["kept"] for _ in range(3)] == [True, True, False]
    assert len(lines(pairs)) == 2
    assert "move it away" in caplog.text


def test_a_disk_that_is_full_leaves_whole_lines(
    tmp_path: Path, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = keeping(tmp_path)
    pairs.add("id", prediction(model), 3)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(OSError, match="must have room"):
            pairs.add("id", prediction(model), 3)
    pairs.add("id", prediction(model), 4)

    assert [pair["truth"] for pair in lines(pairs)] == ["3", "4"]


def test_before_the_first_pair_there_is_none(tmp_path: Path) -> None:
    assert keeping(tmp_path / "none").read() == b""


def test_nobody_else_on_the_machine_reads_them(tmp_path: Path, model: ServedModel) -> None:
    image = keeping(tmp_path).add("id", prediction(model, data=digit(model)), 3)["image"]

    assert {(tmp_path / file).stat().st_mode & 0o777 for file in ("pairs.jsonl", image)} == {0o600}
