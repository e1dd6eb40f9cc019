"""What of a registry is served: the version to serve of each model, if it is fit to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.catalogue import load_models
from service.registry import Registry, RegistryError
from tests.registries import artifact_of, publish

CPU = torch.device("cpu")


class OnlyPairs(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.view(2, -1)[:, :10].float()


def served(root: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Version and aliases of each model."""
    models = load_models(Registry(root), CPU, max_batch_size=2)
    return {model.manifest.name: (model.manifest.version, tuple(sorted(model.aliases))) for model in models}


def test_the_newest_version_of_every_model_is_served(tmp_path: Path) -> None:
    for name in ("b", "a", "b"):
        publish(tmp_path, name)

    assert served(tmp_path) == {"a": (1, ()), "b": (2, ())}


def test_production_is_served_in_place_of_the_newest_with_all_its_aliases(tmp_path: Path) -> None:
    for _ in range(3):
        publish(tmp_path)
    registry = Registry(tmp_path)
    registry.set_alias("rows", "production", 2)
    registry.set_alias("rows", "blessed", 2)
    registry.set_alias("rows", "canary", 3)

    assert served(tmp_path) == {"rows": (2, ("blessed", "production"))}


def test_a_damaged_artifact_is_left_out_and_said_and_the_others_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad")
    (tmp_path / "bad" / "1" / "model.pt").write_bytes(b"other bytes")

    assert served(tmp_path) == {"good": (1, ())}
    assert "refused bad: bad@1: sha256 of model.pt is" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": b"no module"},
        {"logits": [[0.0] * 10] * 2},
        {
            "artifact": artifact_of(OnlyPairs()),
            "logits": [[float(i) for i in range(10)], [float(784 + i) % 251 for i in range(10)]],
        },
    ],
    ids=["no module", "other logits", "not every batch size"],
)
def test_a_model_that_is_unfit_is_left_out_and_said(
    tmp_path: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad", **changes)

    assert served(tmp_path) == {"good": (1, ())}
    assert "refused bad: bad@1: " in caplog.text


def test_a_manifest_that_does_not_parse_is_left_out(tmp_path: Path) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad")
    (tmp_path / "bad" / "1" / "manifest.json").write_text("{")

    assert served(tmp_path) == {"good": (1, ())}


def test_an_alias_that_points_nowhere_is_passed_over(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "rows" / "aliases").mkdir()
    (tmp_path / "rows" / "aliases" / "production").write_text("9\n")

    with pytest.raises(RegistryError, match="must hold a version that can serve"):
        served(tmp_path / "nowhere")
    assert served(tmp_path)["rows"][0] == 1


def test_a_registry_in_which_nothing_can_serve_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    publish(tmp_path, "bad", artifact=b"no module")

    with pytest.raises(RegistryError, match=r"must hold a version that can serve\. Given: \['bad'\]\. Publish one"):
        served(tmp_path)


def test_an_empty_registry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="Given: no model"):
        served(tmp_path)


def test_a_registry_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RegistryError):
        served(tmp_path / "file" / "models")
