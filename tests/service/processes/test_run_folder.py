"""The folder of a service is removed in the end, or when the next one starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from service.processes.run_folder import run_folder


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_there_while_the_service_runs_and_then_gone(parent: Path) -> None:
    with run_folder() as folder:
        during = list(parent.iterdir())

    assert during == [folder]
    assert list(parent.iterdir()) == []


def test_what_a_crashed_service_left_behind_is_removed_and_what_another_uses_is_not(parent: Path) -> None:
    left = parent / "argmax-left"
    left.mkdir()
    (left / "running.lock").touch()
    (left / "worker-0.sock").touch()

    with run_folder() as first, run_folder() as second:
        assert set(parent.iterdir()) == {first, second}


def test_the_lock_by_which_others_remove_the_rest_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, gone = os.unlink, []

    def note(path: str | Path, **options: Any) -> None:
        gone.append(Path(path).name)
        unlink(path, **options)

    with run_folder() as folder:
        for number in range(20):
            (folder / f"{number}.numbers").touch()
        monkeypatch.setattr(os, "unlink", note)

    assert len(gone) == 21
    assert gone[-1] == "running.lock"


def test_what_is_no_services_folder_stays(parent: Path) -> None:
    other, elsewhere = parent / "argmax-other", parent / "elsewhere"
    for folder in (other, elsewhere):
        folder.mkdir()
    (elsewhere / "running.lock").touch()
    (parent / "argmax-link").symlink_to(elsewhere)

    with run_folder():
        pass

    assert {path.name for path in parent.iterdir()} == {"argmax-other", "elsewhere", "argmax-link"}
    assert (elsewhere / "running.lock").exists()
