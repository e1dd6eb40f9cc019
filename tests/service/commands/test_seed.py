"""A new registry gets the models that it lacks, and what it has stays as it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.__main__ import main
from service.contract.registry import Registry
from service.contract.store import Store
from tests.registries import publish


@pytest.fixture
def shipped(tmp_path: Path) -> Registry:
    for name in ("rows", "rows", "other"):
        publish(tmp_path / "shipped", name)
    (tmp_path / "shipped" / "rows" / "2" / "card.md").write_text("# rows")
    return Registry(tmp_path / "shipped")


def test_each_missing_model_is_copied_under_its_number_and_a_model_that_is_there_stays(
    shipped: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = publish(tmp_path / "own", "other")
    command = ["seed", "--source", shipped.url, "--registry", str(tmp_path / "own")]

    codes = [main(command), main(command)]

    registry = Registry(tmp_path / "own")
    manifest = registry.manifest("rows", registry.resolve("rows"))
    assert codes == [0, 0]
    assert (registry.versions("rows"), registry.versions("other")) == ([2], [1])
    assert manifest == shipped.manifest("rows", 2)
    assert registry.artifact(manifest) == shipped.artifact(manifest)
    assert registry.file("rows", 2, "card.md") == b"# rows"
    assert registry.manifest("other", 1) == own
    assert capsys.readouterr().err == f"copied rows@2 to {registry.url}\n"
    assert not list((tmp_path / "own").rglob(".*"))


def test_several_at_once_leave_whole_versions(shipped: Registry, tmp_path: Path) -> None:
    command = ["seed", "--source", shipped.url, "--registry", str(tmp_path / "own")]
    threads = [threading.Thread(target=main, args=(command,)) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    registry = Registry(tmp_path / "own")
    for name in registry.models():
        registry.artifact(registry.manifest(name, registry.resolve(name)))
    assert registry.models() == ["other", "rows"]


def test_the_manifest_is_copied_last_so_that_a_version_is_whole_once_it_is_there(
    shipped: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(Store, "write", lambda self, data, *parts: written.append(parts[-1]))

    Registry(tmp_path / "own").adopt(shipped, "rows", 2)

    assert sorted(written) == ["card.md", "manifest.json", "model.pt"]
    assert written[-1] == "manifest.json"


def test_a_registry_that_cannot_be_written_is_an_error(
    shipped: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    code = main(["seed", "--source", shipped.url, "--registry", str(tmp_path / "file" / "models")])

    assert code == 1
    assert "error: " in capsys.readouterr().err
