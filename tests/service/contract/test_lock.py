from __future__ import annotations

import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from service.contract.lock import turn
from service.contract.registry import Registry
from tests.registries import publish


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
    return str(tmp_path / "models") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def test_of_many_that_want_a_turn_one_has_it_at_a_time_and_nothing_is_left_of_them(root: str) -> None:
    fs, folder = fsspec.url_to_fs(f"{root}/turns", use_listings_cache=False)
    busy = threading.Lock()
    together: list[bool] = []

    def take() -> None:
        for _ in range(3):
            with turn(fs, folder):
                together.append(not busy.acquire(blocking=False))
                busy.release()

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert together == [False] * 9
    assert not fs.exists(folder) or fs.ls(folder) == []


def test_the_turn_of_one_that_died_goes_to_one_of_those_that_wait(root: str) -> None:
    fs, folder = fsspec.url_to_fs(f"{root}/turns", use_listings_cache=False)
    fs.makedirs(folder, exist_ok=True)
    fs.pipe_file(f"{folder}/1", b"of a process that is no more")
    busy = threading.Lock()
    together: list[bool] = []

    def take() -> None:
        with turn(fs, folder, patience_seconds=0.1):
            together.append(not busy.acquire(blocking=False))
            busy.release()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert together == [False] * 2
    assert not fs.exists(folder) or fs.ls(folder) == []


def test_an_error_in_a_turn_ends_it(tmp_path: Path) -> None:
    fs = fsspec.filesystem("file")

    with pytest.raises(ZeroDivisionError), turn(fs, str(tmp_path / "turns")):
        raise ZeroDivisionError

    assert list((tmp_path / "turns").iterdir()) == []


def test_a_condition_is_asked_of_what_is_served_when_nobody_else_can_change_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for _ in range(3):
        publish(tmp_path)
    registry.promote("rows", 2)
    asked: list[int] = []
    others: list[Path] = []

    def refuse(served: int) -> bool:
        asked.append(served)
        others.extend((tmp_path / "rows" / "turns").iterdir())
        return False

    history = registry.promote("rows", 3, when=refuse)

    assert (asked, history) == ([2], registry.history("rows"))
    assert registry.resolve("rows") == 2
    assert len(others) == 1
    assert registry.promote("rows", 3, when=lambda served: served == 2)[-1] == 3


def test_what_was_decided_of_a_version_is_read_back(root: str) -> None:
    registry = Registry(root)
    publish(root)

    before = registry.decision("rows", 1)
    registry.decide("rows", 1, "kept: no better than 0")

    assert before is None
    assert registry.decision("rows", 1) == "kept: no better than 0"
    assert registry.versions("rows") == [1]
