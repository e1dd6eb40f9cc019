"""Several registries as one: each model comes whole from the first that has it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry as known_filesystems

from service.__main__ import main
from service.contract.registries import open_registry
from service.contract.registry import NotInRegistryError, Registry, RegistryError
from tests.registries import publish


@pytest.fixture
def both(tmp_path: Path) -> Registry:
    """Mine has rows 1 and 2, of which 1 is in production; the shipped one has rows 1 to 3 and columns 1."""
    for _ in range(2):
        publish(tmp_path / "mine", "rows")
    Registry(tmp_path / "mine").promote("rows", 1)
    for _ in range(3):
        publish(tmp_path / "shipped", "rows")
    publish(tmp_path / "shipped", "columns")
    return open_registry(f"{tmp_path}/mine,{tmp_path}/shipped")


def test_models_of_all_are_there_and_those_of_earlier_ones_win(both: Registry, tmp_path: Path) -> None:
    mine, shipped = Registry(tmp_path / "mine"), Registry(tmp_path / "shipped")

    for _ in range(2):  # before and after a listing
        assert (both.versions("rows"), both.versions("columns"), both.versions("none")) == ([1, 2], [1], [])
        assert both.models() == ["columns", "rows"]
        assert list(both.look()) == ["columns", "rows"]
        assert (both.look()["rows"], both.look()["columns"]) == (mine.look()["rows"], shipped.look()["columns"])
    assert both.aliases("rows") == {"production": 1}
    assert (both.resolve("rows"), both.resolve("rows", "production"), both.resolve("columns")) == (1, 1, 1)
    assert both.manifest("rows", 1) == mine.manifest("rows", 1) != shipped.manifest("rows", 1)
    assert both.artifact(both.manifest("columns", 1)) == shipped.artifact(shipped.manifest("columns", 1))
    assert both.file("columns", 1, "manifest.json") == shipped.file("columns", 1, "manifest.json")


def test_promotion_and_rollback_change_the_registry_that_has_the_model(both: Registry, tmp_path: Path) -> None:
    both.promote("rows", 2)
    assert both.history("rows") == Registry(tmp_path / "mine").history("rows")
    assert both.history("rows")[-2:] == [1, 2]

    assert both.rollback("rows") == (2, 1)
    assert Registry(tmp_path / "shipped").aliases("rows") == {}


def test_an_unknown_model_is_answered_with_those_of_all(both: Registry) -> None:
    with pytest.raises(NotInRegistryError, match=re.escape("one of ['columns', 'rows'] in ")):
        both.resolve("none")
    with pytest.raises(NotInRegistryError, match=r"must be one of \[1, 2\]\. Given: 3"):
        both.resolve("rows", 3)


def test_a_model_that_is_published_to_an_earlier_one_takes_over(both: Registry, tmp_path: Path) -> None:
    both.models()
    publish(tmp_path / "mine", "columns")
    publish(tmp_path / "mine", "columns")

    both.models()

    assert both.versions("columns") == [1, 2]


def test_a_folder_that_is_not_there_yet_is_empty_beside_one_that_is(tmp_path: Path) -> None:
    publish(tmp_path / "shipped", "rows")

    assert open_registry(f"{tmp_path}/mine, {tmp_path}/shipped").models() == ["rows"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere", "registry must be a folder that exists. Given: nowhere"),
        ("nowhere,none", "registry must be a folder that exists. Given: nowhere,none"),
        ("", "registry must be a folder that exists. Given: nothing"),
        ("s3://bucket/models", "s3:// must have its package installed: pip install 'argmax[s3]'. Given: s3://"),
        ("models,s3://bucket", "s3:// must have its package installed: pip install 'argmax[s3]'. Given: s3://bucket"),
        ("nonsense://bucket", "registry must be a folder or a URL that fsspec knows. Given: nonsense://bucket"),
    ],
)
def test_a_registry_that_cannot_be_opened_is_one_sentence_and_exit_code_2(
    url: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(known_filesystems, "s3", raising=False)  # if another test has opened a bucket
    with pytest.raises(RegistryError, match=re.escape(message)):
        open_registry(url)

    assert main(["serve", "--registry", url]) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
