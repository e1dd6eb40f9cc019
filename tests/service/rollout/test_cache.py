"""The local copy is bounded, believes no damaged file, and is never what a service fails of."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from service.contract.listing import ModelListing, VersionFiles
from service.rollout.cache import Cache

LISTINGS = {"rows": ModelListing(versions={1: VersionFiles(manifest_bytes=3)}, aliases={"production": 1})}


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cache(folder: Path, max_bytes: int = 100) -> Cache:
    return Cache(folder, "s3://models", max_bytes)


def test_what_was_kept_is_there_for_the_next_process_and_what_is_known_for_its_registry(tmp_path: Path) -> None:
    first = cache(tmp_path)
    first.keep(digest_of(b"weights"), b"weights")
    first.keep_manifest("rows", 1, b"{}")
    first.remember(LISTINGS)

    then, other = cache(tmp_path), Cache(tmp_path, "s3://others", 100)

    assert then.artifact(digest_of(b"weights")) == other.artifact(digest_of(b"weights")) == b"weights"
    assert (then.manifest("rows", 1), then.known()) == (b"{}", LISTINGS)
    assert (other.manifest("rows", 1), other.known(), other.age_seconds()) == (None, None, None)


def test_a_file_that_was_cut_off_or_altered_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.keep(digest_of(b"weights"), b"weights")
    kept.remember(LISTINGS)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-2])

    assert (kept.artifact(digest_of(b"weights")), kept.known()) == (None, None)
    kept.keep(digest_of(b"weights"), b"weights")
    assert kept.artifact(digest_of(b"weights")) == b"weights"


def test_what_was_not_used_for_longest_is_dropped_and_what_is_too_large_not_kept(tmp_path: Path) -> None:
    kept = cache(tmp_path, max_bytes=10)
    data = [bytes([number]) * 4 for number in range(4)]
    for number, some in enumerate(data[:2]):
        kept.keep(digest_of(some), some)
        os.utime(tmp_path / "artifacts" / digest_of(some), (time.time() - 100 + number,) * 2)
    kept.artifact(digest_of(data[0]))  # is used now

    kept.keep(digest_of(data[2]), data[2])
    kept.keep(digest_of(b"x" * 11), b"x" * 11)

    assert [kept.artifact(digest_of(some)) for some in (*data[:3], b"x" * 11)] == [data[0], None, data[2], None]
    assert sum(path.stat().st_size for path in (tmp_path / "artifacts").iterdir()) <= 10


def test_what_was_left_unfinished_long_ago_is_removed(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.keep(digest_of(b"a"), b"a")
    for name, age in (("old", 7200), ("new", 10)):
        file = tmp_path / "artifacts" / f"{name}.unfinished"
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)

    kept.keep(digest_of(b"b"), b"b")

    assert [path.name for path in (tmp_path / "artifacts").glob("*.unfinished")] == ["new.unfinished"]


def test_manifests_of_versions_that_are_gone_are_dropped(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    for version in (1, 2):
        kept.keep_manifest("rows", version, b"{}")

    kept.remember(LISTINGS)

    assert (kept.manifest("rows", 1), kept.manifest("rows", 2)) == (b"{}", None)


def test_a_full_disk_is_said_once_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = cache(tmp_path)
    kept.keep(digest_of(b"a"), b"a")

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for _ in range(3):
            kept.keep(digest_of(b"b"), b"b")
            kept.remember(LISTINGS)

    assert (kept.artifact(digest_of(b"a")), kept.artifact(digest_of(b"b")), kept.known()) == (b"a", None, None)
    assert caplog.text.count("cannot be written") == 1
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [digest_of(b"a")]


def test_a_folder_that_cannot_be_made_is_as_if_it_were_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = cache(tmp_path / "file")

    nowhere.keep(digest_of(b"a"), b"a")
    nowhere.keep_manifest("rows", 1, b"{}")
    nowhere.remember(LISTINGS)
    nowhere.confirm()

    assert (nowhere.artifact(digest_of(b"a")), nowhere.known(), nowhere.age_seconds()) == (None, None, None)


def test_the_age_of_what_is_known_begins_again_when_it_is_confirmed(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.remember(LISTINGS)
    (known,) = tmp_path.rglob("known.json")
    os.utime(known, (time.time() - 500,) * 2)
    before = kept.age_seconds()

    kept.confirm()

    after = kept.age_seconds()
    assert before is not None
    assert after is not None
    assert before >= 500 > after
