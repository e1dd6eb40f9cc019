"""A part is whole or not there, in a folder as in a bucket."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from service.bulk.destination import Destination, part_name


@pytest.fixture(params=["folder", "bucket"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "folder":
        return Destination(str(tmp_path / "results"))
    return Destination(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}/results")


def test_a_new_destination_is_empty(destination: Destination) -> None:
    assert destination.parts() == set()
    assert destination.read("_plan", "plan.json") is None


def test_a_part_is_found_by_its_name_and_nothing_else_is_one(destination: Destination) -> None:
    destination.write(b"rows", part_name(12))
    destination.write(b"", "_SUCCESS")
    destination.write(b"{}", "_plan", "plan.json")

    assert destination.parts() == {12}
    assert destination.has_part(12)
    assert not destination.has_part(1)
    assert destination.read(part_name(12)) == b"rows"


def test_a_claim_is_won_once(destination: Destination) -> None:
    assert destination.claim(b"first", "_plan", "plan.json")
    assert not destination.claim(b"second", "_plan", "plan.json")
    assert destination.read("_plan", "plan.json") == b"first"


def test_what_is_removed_is_gone_and_may_be_removed_again(destination: Destination) -> None:
    destination.claim(b"entries", "_plan", "folder", "entries")
    destination.write(b"rows", part_name(0))

    for _ in range(2):
        destination.remove("_plan", "folder")
        destination.remove(part_name(0))

    assert destination.read("_plan", "folder", "entries") is None
    assert destination.parts() == set()


def test_a_writer_that_fails_before_the_move_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)

    with pytest.raises(OSError, match="full"):
        Destination(str(tmp_path)).write(b"rows", part_name(0))

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_no_part_and_is_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = Destination(str(tmp_path))
    destination.write(b"rows", part_name(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os.stat("/nowhere"))  # noqa: PTH116
        patch.setattr(destination._fs, "rm_file", lambda *_: None)
        with pytest.raises(FileNotFoundError):
            destination.write(b"rows", part_name(1))
    left = [path.name for path in tmp_path.iterdir() if path.name != part_name(0)]

    found = destination.parts()
    destination.tidy()

    assert len(left) == 1
    assert left[0].startswith(".")
    assert found == {0}
    assert [path.name for path in tmp_path.iterdir()] == [part_name(0)]
