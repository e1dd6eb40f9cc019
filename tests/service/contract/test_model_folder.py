"""A flat folder with one version is a registry of that version, under any name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.contract.model_folder import ModelFolder, open_registry
from service.contract.registry import CorruptVersionError, NotInRegistryError, Registry
from tests.registries import publish


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for _ in range(3):
        publish(tmp_path / "registry", "rows")
    return Path(shutil.move(tmp_path / "registry" / "rows" / "3", tmp_path / "flat"))


@pytest.mark.parametrize(("given", "name"), [(None, "rows"), ("digits", "digits")])
def test_a_flat_folder_holds_its_one_version_under_its_own_name_or_the_given_one(
    flat: Path, given: str | None, name: str
) -> None:
    (flat / "card.md").write_text("# rows")
    folder = ModelFolder(str(flat), given)

    manifest = folder.manifest(name, folder.resolve(name))

    assert (folder.models(), folder.versions(name), folder.versions("other")) == ([name], [3], [])
    assert (manifest.name, manifest.version) == (name, 3)
    assert (folder.aliases(name), folder.history(name)) == ({}, [3])
    assert folder.artifact(manifest) == (flat / "model.pt").read_bytes()
    assert folder.file(name, 3, "card.md") == b"# rows"


def test_another_version_or_model_is_not_there(flat: Path) -> None:
    with pytest.raises(NotInRegistryError, match=r"must be rows@3, the only one .* Given: rows@1"):
        ModelFolder(str(flat)).manifest("rows", 1)
    with pytest.raises(NotInRegistryError, match="Given: 'other'"):
        ModelFolder(str(flat)).resolve("other")


def test_a_folder_without_a_manifest_or_with_a_damaged_one_says_so(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(NotInRegistryError, match=r"manifest\.json"):
        ModelFolder(str(tmp_path / "nowhere")).models()
    (flat / "manifest.json").write_text("{")
    with pytest.raises(CorruptVersionError, match="does not parse"):
        ModelFolder(str(flat)).models()


def test_the_folder_takes_the_place_of_the_registry(flat: Path, tmp_path: Path) -> None:
    assert type(open_registry(str(tmp_path / "registry"), None, None)) is Registry
    assert open_registry(str(tmp_path / "registry"), str(flat), "digits").models() == ["digits"]
