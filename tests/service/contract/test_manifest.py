from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.manifest import FeatureInput, ImageInput, ModelManifest, input_bytes, pack_floats
from tests.registries import RGB, publish


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    return publish(tmp_path)


def changed(manifest: ModelManifest, **changes: Any) -> ModelManifest:
    return ModelManifest.model_validate(manifest.model_dump() | changes)


def test_a_manifest_survives_json_unchanged(manifest: ModelManifest) -> None:
    assert ModelManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_manifest_from_before_half_precision_was_measured_is_read(manifest: ModelManifest) -> None:
    document = manifest.model_dump(mode="json")
    del document["half_precision"]

    assert ModelManifest.model_validate(document) == manifest


def test_evidence_for_half_precision_survives_json_and_knows_its_keys(manifest: ModelManifest) -> None:
    evidence = {"form": "float16", "agreement": 0.9998, "accuracy_difference": -0.0001, "data": "mnist/test", "n": 9}

    read = changed(manifest, half_precision=[evidence])

    assert read.half_precision[0].agreement == 0.9998
    assert ModelManifest.model_validate_json(read.model_dump_json()) == read
    for wrong in ({"agreement": 1.1}, {"n": 0}, {"form": "float8"}, {"author": "me"}):
        with pytest.raises(ValidationError):
            changed(manifest, half_precision=[evidence | wrong])


def test_a_manifest_cannot_be_changed(manifest: ModelManifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest.version = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour_of_the_author": "blue"}, "Extra inputs are not permitted"),
        ({"schema_version": 3}, "Input should be 1 or 2"),
        ({"schema_version": 2}, "outliers must be there in schema version 2, and only there"),
        ({"version": 0}, "greater than or equal to 1"),
        ({"name": "../etc"}, "String should match pattern"),
        ({"name": "Mnist"}, "String should match pattern"),
        ({"created": "2026-01-01T00:00:00"}, "timezone"),
        ({"temperature": 0}, "greater than or equal to 0.001"),
        ({"temperature": 1e-320}, "greater than or equal to 0.001"),
        ({"temperature": float("inf")}, "finite number"),
        ({"version": 10**25}, "less than or equal to 999999999"),
        ({"classes": ("0",) * 10}, "classes must differ"),
        ({"classes": (*"012345678", "9" * 1001)}, "at most 1000 characters"),
        ({"classes": tuple("012345678")}, r"golden\.logits must have 9 columns\. Given: 10"),
        ({"artifact": {"sha256": "ab", "size_bytes": 1}}, "String should match pattern"),
        ({"artifact": {"sha256": "ab" * 32, "size_bytes": 0}}, "greater than 0"),
    ],
    ids=str,
)
def test_a_manifest_that_says_something_impossible_is_refused(
    manifest: ModelManifest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(manifest, **changes)


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        ({"inputs": base64.b64encode(bytes(100)).decode()}, r"hold 2 inputs of \(1, 28, 28\), 1568 bytes\. Given: 100"),
        ({"inputs": "a"}, "must be base64"),
        ({"logits": ((float("nan"),) * 10,) * 2}, "finite number"),
        ({"logits": ()}, "at least 1 item"),
        ({"logits": ((1e39,) * 10,) * 2}, r"less than or equal to 3\.?4"),
        ({"tolerance": 0}, "greater than 0"),
        ({"tolerance": 1e308}, "less than or equal to 1"),
    ],
    ids=str,
)
def test_a_golden_sample_that_does_not_fit_is_refused(
    manifest: ModelManifest, golden: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(manifest, golden=manifest.golden.model_dump() | golden)


def test_a_grey_input_has_one_channel_and_a_colour_input_three() -> None:
    with pytest.raises(ValidationError, match=r"a grey input has 1 as its first size\. Given shape: \(3, 8, 8\)"):
        ImageInput(shape=(3, 8, 8), colour="grey")
    with pytest.raises(ValidationError, match=r"a rgb input has 3 as its first size"):
        ImageInput(shape=(1, 8, 8), colour="rgb")


def test_ink_as_mnist_has_it_is_grey() -> None:
    with pytest.raises(ValidationError, match=r"style mnist must be grey.* Given: rgb"):
        ImageInput(shape=(3, 8, 8), colour="rgb", style="mnist")


def test_the_kind_of_input_is_read_from_json(manifest: ModelManifest, tmp_path: Path) -> None:
    photo = publish(tmp_path, "photo", spec=RGB)

    read = ModelManifest.model_validate_json(photo.model_dump_json())

    assert read.input == RGB


def test_features_have_names_for_all_or_none() -> None:
    assert FeatureInput(shape=(2,), columns=("height", "width")).columns == ("height", "width")
    assert FeatureInput.model_validate({"kind": "features", "dtype": "float32", "shape": [2]}).columns is None
    with pytest.raises(ValidationError, match=r"columns must be as many as features, 2\. Given: 1"):
        FeatureInput(shape=(2,), columns=("height",))


def test_an_input_knows_its_size_in_bytes() -> None:
    assert input_bytes(RGB) == 3 * 32 * 32
    assert input_bytes(FeatureInput(shape=(2,))) == 8


def test_floats_are_packed_as_little_endian_float32() -> None:
    assert pack_floats([1.0, -2.0]) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
