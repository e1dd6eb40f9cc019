"""What is below a registry: one call lists it, nothing in it hides the rest, and a hanging bucket is given up."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from service.contract import store
from service.contract.registry import Registry
from service.contract.store import NotInRegistryError, Parts, RegistryError, Store, UnreadableError
from tests.registries import publish


def everything(path: Parts) -> bool:
    return not path[-1].startswith(".")


def test_a_folder_is_listed_through_links_and_what_cannot_be_looked_at_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere" / "1" / "model.pt").write_bytes(b"weights")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "lost").symlink_to(tmp_path / "nowhere")
    (root / "round").symlink_to(root / "round")
    (root / "real" / "1").mkdir(parents=True)
    (root / "real" / "1" / "again").symlink_to(root)
    os.mkfifo(root / "real" / "pipe")
    (root / ".hidden").mkdir()

    found = Store(root).contents(is_relevant=everything)

    assert {path: entry.size for path, entry in found.files.items()} == {("linked", "1", "model.pt"): 7}
    assert found.folders == {("linked",), ("linked", "1"), ("real",), ("real", "1")}
    assert {path: reason.partition("Given: ")[2] for path, reason in found.faults.items()} == {
        ("lost",): "a link to nothing",
        ("round",): "OSError: Too many levels of symbolic links",
        ("real", "pipe"): "something else",
        ("real", "1", "again"): "something else",
    }


def test_a_folder_that_may_not_be_read_is_a_fault_of_its_own_and_the_root_that_may_not_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good" / "1").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    scan = os.scandir
    denied = {str(tmp_path / "private")}

    def scandir(path: str) -> os._ScandirIterator[str]:
        if path in denied:  # tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(store.os, "scandir", scandir)  # type: ignore[attr-defined]

    found = Store(tmp_path).contents(is_relevant=everything)

    assert found.folders == {("good",), ("good", "1"), ("private",)}
    assert found.faults == {("private",): "it must be readable. Given: PermissionError: Permission denied"}
    denied.add(str(tmp_path))
    with pytest.raises(RegistryError, match="must be readable"):
        Store(tmp_path).contents(is_relevant=everything)


def test_a_pipe_and_a_device_are_no_files_and_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "long").write_bytes(b"x" * 100)

    for name in ("pipe", "device"):
        with pytest.raises(UnreadableError, match=r"must be a file\. Given: something else"):
            Store(tmp_path).read(name)
    with pytest.raises(NotInRegistryError):
        Store(tmp_path).read("nothing")
    assert len(Store(tmp_path).read("long", most_bytes=10)) == 11


def test_a_file_has_a_tag_only_once_it_has_settled_and_another_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def tag() -> str:
        return Store(tmp_path).contents(is_relevant=everything).files[("file",)].tag

    file.write_bytes(b"1")
    fresh = tag()
    settled = []
    for seconds in (1000, 2000):
        os.utime(file, (time.time() - seconds,) * 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "_SETTLED_SECONDS", -10.0)  # the change of the time stamps is a change too
            settled.append(tag())

    assert fresh == ""
    assert settled[0] != settled[1]
    assert "" not in settled


def test_looking_at_a_bucket_takes_one_request_however_many_versions_it_holds(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{bucket}/polled"
    for name in ("a", "b"):
        for _ in range(4):
            publish(root, name, artifact=b"weights")
        Registry(root).set_alias(name, "production", 3)
    registry = Registry(root)
    first = registry.look()
    made = requests_of(registry, monkeypatch)

    again = registry.look()

    assert again == first
    assert {name: listing.production() for name, listing in again.items()} == {"a": 3, "b": 3}
    assert made == ["ListObjectsV2"]
    Registry(root).set_alias("a", "production", 2)
    del made[:]
    assert registry.look()["a"].production() == 2
    assert (made.count("ListObjectsV2"), made.count("GetObject")) == (1, 1)  # of the alias that changed


def requests_of(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by each request that a registry makes to its bucket from now on."""
    made: list[str] = []

    def note(model: object, **_: object) -> None:
        made.append(model.name)  # type: ignore[attr-defined]

    registry._store.fs.s3.meta.events.register("before-call.s3", note)
    return made


def test_a_bucket_that_takes_connections_and_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs; pip install argmax[s3]")
    monkeypatch.setattr(store, "READ_SECONDS", 0.2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")

        with pytest.raises(RegistryError, match=r"must be readable\. Given: .*[Tt]imeout"):
            Registry("s3://silent/models").look()
