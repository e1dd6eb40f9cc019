from __future__ import annotations

import time
import uuid
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any, NoReturn

import pytest

from service.contract.manifest import ModelManifest
from service.contract.registry import CorruptVersionError, NotInRegistryError, Registry, RegistryError
from tests.preloaded import FORKS
from tests.registries import publish


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, a store that is none, and a bucket behind a socket."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
    return str(tmp_path / "models") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def test_an_empty_registry_has_no_models_and_says_so(root: str) -> None:
    registry = Registry(root)

    assert registry.models() == []
    assert registry.versions("rows") == []
    assert registry.aliases("rows") == {}
    with pytest.raises(NotInRegistryError, match=r"model must be one of \[\] in .*\. Given: 'rows'"):
        registry.resolve("rows")


def test_what_was_published_is_read_back(root: str) -> None:
    registry = Registry(root)

    manifest = publish(root, "rows", artifact=b"weights")

    assert registry.models() == ["rows"]
    assert registry.versions("rows") == [1]
    assert registry.manifest("rows", 1) == manifest
    assert registry.artifact(manifest) == b"weights"


def test_versions_count_upwards_and_earlier_ones_stay_as_they_were(root: str) -> None:
    first = publish(root, "rows", artifact=b"first")

    second = publish(root, "rows", artifact=b"second")

    registry = Registry(root)
    assert (first.version, second.version) == (1, 2)
    assert registry.artifact(first) == b"first"
    assert registry.manifest("rows", 1) == first


def test_versions_are_ordered_as_numbers(root: str) -> None:
    for _ in range(11):
        publish(root, "rows", artifact=b"weights")

    assert Registry(root).versions("rows") == list(range(1, 12))


def test_the_files_of_a_version_are_read_by_name(root: str) -> None:
    registry = Registry(root)
    first = publish(root, "rows")

    registry.publish("rows", b"weights", lambda n, file: next_to(first, n, file), files={"card.md": b"# Rows"})

    assert registry.file("rows", 2, "card.md") == b"# Rows"
    with pytest.raises(NotInRegistryError):
        registry.file("rows", 1, "card.md")


def next_to(manifest: ModelManifest, version: int, artifact: Any) -> ModelManifest:
    return manifest.model_copy(update={"version": version, "artifact": artifact})


def test_production_is_served_before_the_newest(root: str) -> None:
    registry = Registry(root)
    publish(root, "rows")
    publish(root, "rows")

    newest = registry.resolve("rows")
    registry.set_alias("rows", "production", 1)

    assert newest == 2
    assert registry.resolve("rows") == 1


def test_a_version_is_named_by_number_by_text_or_by_alias(root: str) -> None:
    registry = Registry(root)
    publish(root, "rows")
    publish(root, "rows")
    registry.set_alias("rows", "candidate", 1)
    registry.set_alias("rows", "candidate", 2)

    assert [registry.resolve("rows", version) for version in (1, "1", "candidate")] == [1, 1, 2]
    assert registry.aliases("rows") == {"candidate": 2}


@pytest.mark.parametrize("version", [3, "3", "canary", "../1", "Production", "²"])
def test_a_version_that_is_not_there_is_not_found(root: str, version: int | str) -> None:
    publish(root, "rows")

    with pytest.raises(NotInRegistryError):
        Registry(root).resolve("rows", version)


def test_an_alias_points_only_at_versions_that_exist(root: str) -> None:
    publish(root, "rows")

    with pytest.raises(NotInRegistryError, match=r"version of rows must be one of \[1\]\. Given: 2"):
        Registry(root).set_alias("rows", "production", 2)


def test_an_alias_that_holds_no_number_is_corrupt(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    (tmp_path / "rows" / "aliases").mkdir()
    (tmp_path / "rows" / "aliases" / "production").write_text("latest")

    with pytest.raises(CorruptVersionError, match=r"must hold a version number\. Given: .*latest"):
        Registry(tmp_path).resolve("rows")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_an_artifact_that_is_not_what_the_manifest_says_is_corrupt(tmp_path: Path, damage: str) -> None:
    manifest = publish(tmp_path, "rows")
    file = tmp_path / "rows" / "1" / "model.pt"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(CorruptVersionError, match=r"rows@1: .*Publish the version again"):
        Registry(tmp_path).artifact(manifest)


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}', "\x00"], ids=repr)
def test_a_manifest_that_does_not_parse_is_corrupt(tmp_path: Path, content: str) -> None:
    publish(tmp_path, "rows")
    (tmp_path / "rows" / "1" / "manifest.json").write_text(content)

    with pytest.raises(CorruptVersionError, match=r"rows@1: manifest\.json does not parse"):
        Registry(tmp_path).manifest("rows", 1)


def test_a_manifest_copied_from_another_version_is_corrupt(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    publish(tmp_path, "rows")
    (tmp_path / "rows" / "2" / "manifest.json").write_bytes((tmp_path / "rows" / "1" / "manifest.json").read_bytes())

    with pytest.raises(CorruptVersionError, match=r"must speak of rows@2\. Given: rows@1"):
        Registry(tmp_path).manifest("rows", 2)


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    (tmp_path / "rows" / "2").mkdir()
    (tmp_path / "rows" / "2" / "model.pt").write_bytes(b"half a pub")
    (tmp_path / "half").mkdir()

    assert Registry(tmp_path).versions("rows") == [1]
    assert Registry(tmp_path).models() == ["rows"]
    assert publish(tmp_path, "rows").version == 3


def test_a_publish_that_fails_leaves_nothing_behind(root: str) -> None:
    registry = Registry(root)
    publish(root, "rows")

    with pytest.raises(ZeroDivisionError):
        registry.publish("rows", b"weights", lambda n, file: 1 // 0)  # type: ignore[arg-type, return-value]

    assert registry.versions("rows") == [1]
    assert publish(root, "rows").version == 2


def test_a_publish_that_cannot_write_its_last_file_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)
    first = publish(tmp_path, "rows")
    write = registry._store.fs.pipe_file

    def full_disk(path: str, data: bytes) -> None:
        if "manifest" in path:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(registry._store.fs, "pipe_file", full_disk)

    with pytest.raises(RegistryError, match=r"must be writable\. Given: OSError.*No space left"):
        registry.publish("rows", b"weights", lambda n, file: next_to(first, n, file))

    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["1"]


def publish_half(root: Path, described: Event) -> None:
    def describe(version: int, artifact: object) -> NoReturn:
        described.set()
        time.sleep(60)
        raise AssertionError("nobody killed this process")

    Registry(root).publish("rows", b"weights", describe)


def test_a_publisher_that_is_killed_leaves_no_version_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    described = FORKS.Event()
    publisher = FORKS.Process(target=publish_half, args=(tmp_path, described))
    publisher.start()
    assert described.wait(60)

    publisher.kill()
    publisher.join()

    assert Registry(tmp_path).versions("rows") == [1]
    assert publish(tmp_path, "rows").version == 3
    assert Registry(tmp_path).versions("rows") == [1, 3]


def publish_twenty(root: Path, together: Barrier, given: Queue[int]) -> None:
    together.wait(60)
    for _ in range(20):
        given.put(publish(root, artifact=b"weights").version)


def test_publishers_at_once_never_share_a_version(tmp_path: Path) -> None:
    together, given = FORKS.Barrier(3), FORKS.Queue()
    publishers = [FORKS.Process(target=publish_twenty, args=(tmp_path, together, given)) for _ in range(3)]

    for publisher in publishers:
        publisher.start()
    versions = [given.get(timeout=60) for _ in range(3 * 20)]
    for publisher in publishers:
        publisher.join()

    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    assert sorted(versions) == Registry(tmp_path).versions("rows")
    assert len(set(versions)) == 3 * 20


def publish_thirty_large_ones(root: Path) -> None:
    for _ in range(30):
        publish(root, artifact=bytes(300_000) + b"x")


def test_a_reader_never_sees_half_a_version(tmp_path: Path) -> None:
    registry, seen = Registry(tmp_path), 0
    publisher = FORKS.Process(target=publish_thirty_large_ones, args=(tmp_path,))

    publisher.start()
    while publisher.is_alive():
        for version in registry.versions("rows")[-2:]:
            registry.artifact(registry.manifest("rows", version))
            seen += 1

    assert publisher.exitcode == 0
    assert seen > 0
    assert registry.versions("rows") == list(range(1, 31))


@pytest.mark.parametrize("name", ["", "..", "a/b", "Rows", "-rows", "r" * 65])
def test_a_model_whose_name_is_no_path_segment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        publish(tmp_path, name)

    assert Registry(tmp_path).versions(name) == []
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where a folder should be")

    with pytest.raises(RegistryError):
        publish(tmp_path / "models", "rows")


def test_publishers_that_list_the_versions_at_the_same_moment_claim_numbers_of_their_own(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(root)

    with monkeypatch.context() as patch:
        patch.setattr(registry._lister, "claimed", lambda model: [])
        claimed = [registry._claim("rows"), registry._claim("rows")]
    third = publish(root)

    assert claimed == [1, 2]
    assert third.version == 3
    assert registry.versions("rows") == [3]


def test_a_rollback_returns_to_what_was_production_before_and_again_to_what_was_before_that(root: str) -> None:
    registry = Registry(root)
    for _ in range(4):
        publish(root)
    for version in (1, 3, 3, 2):
        registry.promote("rows", version)

    steps = [registry.rollback("rows"), registry.rollback("rows")]

    registry.promote("rows", 4)
    back = registry.rollback("rows")

    assert steps == [(2, 3), (3, 1)]
    assert back == (4, 1)
    assert registry.aliases("rows") == {"production": 1}
    assert registry.resolve("rows") == 1
    assert registry.history("rows") == [1, 2, 3, 4, 1]


def test_rollbacks_go_all_the_way_back_through_a_history_in_which_versions_come_again(root: str) -> None:
    registry = Registry(root)
    for _ in range(3):
        publish(root)
    for version in (3, 1, 2, 1, 2):
        registry.promote("rows", version)

    returned_to = [registry.rollback("rows")[1] for _ in range(len(registry.history("rows")) - 1)]

    assert returned_to == [1, 2, 1, 3, 2, 1]
    assert registry.history("rows") == [1]


def test_without_any_promotion_a_rollback_returns_to_the_version_before_the_newest(root: str) -> None:
    registry = Registry(root)
    publish(root)
    publish(root)

    assert registry.rollback("rows") == (2, 1)
    assert registry.resolve("rows") == 1


def test_there_is_nothing_to_roll_back_to_before_the_first_version(root: str) -> None:
    registry = Registry(root)
    publish(root)

    with pytest.raises(NotInRegistryError, match=r"must have a version to return to\. Given: 1 is the first"):
        registry.rollback("rows")
    with pytest.raises(NotInRegistryError, match=r"model must be one of \['rows'\]"):
        registry.rollback("columns")
    with pytest.raises(NotInRegistryError, match=r"version of rows must be one of \[1\]\. Given: 2"):
        registry.promote("rows", 2)
    assert registry.aliases("rows") == {}


def test_a_promotion_that_is_cut_off_changes_neither_what_is_served_nor_the_rollback_after_it(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(root)
    for _ in range(3):
        publish(root)
    registry.promote("rows", 1)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", cut_off)
        with pytest.raises(KeyboardInterrupt):
            registry.promote("rows", 2)

    assert registry.resolve("rows") == 1
    registry.promote("rows", 3)

    assert registry.rollback("rows") == (3, 1)


def cut_off(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["artifact", "manifest"])
def test_a_damaged_version_is_neither_promoted_nor_rolled_back_to(tmp_path: Path, damage: str) -> None:
    registry = Registry(tmp_path)
    for _ in range(3):
        publish(tmp_path, "rows")
    registry.promote("rows", 1)
    registry.promote("rows", 2)
    for version in (1, 3):
        file = tmp_path / "rows" / str(version) / ("model.pt" if damage == "artifact" else "manifest.json")
        file.write_bytes(file.read_bytes()[:-3])

    with pytest.raises(CorruptVersionError, match="rows@3: "):
        registry.promote("rows", 3)
    with pytest.raises(CorruptVersionError, match="rows@1: "):
        registry.rollback("rows")

    assert registry.history("rows") == [1, 2, 3, 1, 2]
    assert registry.resolve("rows") == 2


def test_a_manifest_of_another_file_is_refused_without_a_word_of_what_it_holds(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    manifest = tmp_path / "rows" / "1" / "manifest.json"
    (tmp_path / "secret").write_text('{"version": "SECRET", "name": "SECRET"}')
    manifest.unlink()
    manifest.symlink_to(tmp_path / "secret")

    with pytest.raises(
        CorruptVersionError, match=r"manifest\.json does not parse: name: String should match"
    ) as caught:
        Registry(tmp_path).manifest("rows", 1)

    assert "SECRET" not in str(caught.value)


def test_a_version_is_a_whole_number_that_64_bits_hold_as_it_is_written(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    for name in ("007", "1" + "0" * 25, "0"):
        (tmp_path / "rows" / "1").rename(tmp_path / "rows" / name)
        faults = Registry(tmp_path).look()["rows"].faults
        (tmp_path / "rows" / name).rename(tmp_path / "rows" / "1")

        assert faults == {name: f"rows/{name}: a version must be a whole number from 1 to 999999999"}
    assert Registry(tmp_path).look()["rows"].faults == {}
