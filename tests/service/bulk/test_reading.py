"""A file that cannot be read is its own error; a store that does not answer is tried again, and no image is blamed."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import reading
from service.bulk.reading import Unreadable, batches, read_files
from service.bulk.sources import Source, SourceError

MISSING = Unreadable("the file must be readable. Given: No such file or directory")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def of_bucket(bucket: str, **files: bytes) -> Source:
    fs, root = fsspec.url_to_fs(f"{bucket}/{uuid.uuid4().hex}")
    for name, data in {"first": b"1", **files}.items():
        fs.pipe_file(f"{root}/{name}.png", data)
    return Source(f"s3://{root}")


def test_files_of_a_folder_are_read_and_a_missing_one_is_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "large.png").write_bytes(b"12345")
    (tmp_path / "folder.png").mkdir()

    found = read_files(Source(str(tmp_path)), ["a.png", "none.png", "large.png", "folder.png"], 4)

    too_large = Unreadable("the image must have at most 4 bytes. Given: more")
    assert found == [b"1", MISSING, too_large, Unreadable("the file must be readable. Given: Is a directory")]


def test_objects_of_a_bucket_are_read_as_files_are(bucket: str) -> None:
    source = of_bucket(bucket, **{"a[1]": b"2", "empty": b"", "large": b"12345"})

    found = read_files(source, ["first.png", "a[1].png", "empty.png", "none.png", "large.png"], 4)

    assert found == [b"1", b"2", b"", MISSING, Unreadable("the image must have at most 4 bytes. Given: more")]


def test_a_list_may_name_files_of_several_stores(tmp_path: Path, bucket: str) -> None:
    url = of_bucket(bucket).url
    (tmp_path / "here.png").write_bytes(b"2")
    (tmp_path / "list.txt").write_text(f"{url}/first.png\nhere.png\n{tmp_path}/here.png\n")
    source = Source(str(tmp_path / "list.txt"))

    found = read_files(source, [os.fsdecode(entry.path) for entry in source.entries()], 10)

    assert found == [b"1", b"2", b"2"]


def flaky(source: Source, monkeypatch: pytest.MonkeyPatch, failures: int) -> list[list[str]]:
    """Let the store fail so often for each last file that it is asked for; return what it was asked."""
    asked: list[list[str]] = []
    cat_ranges = source.fs.cat_ranges

    def fail(paths: list[str], *limits: Any, **options: Any) -> list[Any]:
        asked.append(paths)
        found = cat_ranges(paths, *limits, **options)
        return [*found[:-1], TimeoutError("slow")] if len(asked) <= failures else found

    monkeypatch.setattr(source.fs, "cat_ranges", fail)
    return asked


def test_what_a_store_did_not_give_is_asked_for_again_alone(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_bucket(bucket, second=b"2")
    asked = flaky(source, monkeypatch, failures=2)

    found = read_files(source, ["first.png", "second.png"], 10)

    assert found == [b"1", b"2"]
    assert [len(paths) for paths in asked] == [2, 1, 1]


def test_a_store_that_never_answers_is_no_error_of_an_image(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_bucket(bucket)
    flaky(source, monkeypatch, failures=99)

    with pytest.raises(SourceError, match="Given: TimeoutError in 4 attempts: slow"):
        read_files(source, ["first.png"], 10)


def test_a_disk_that_fails_is_no_error_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    source = Source(str(tmp_path))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)

    with pytest.raises(SourceError, match="Input/output error"):
        read_files(source, ["a.png"], 10)


def test_parquet_is_read_row_group_by_row_group_with_the_names_that_it_gives(tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "one.png"}, {"bytes": None, "path": "two.png"}, {"bytes": b"12345", "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=2)
    source = Source(str(tmp_path))

    found = [
        (name, content)
        for batch in batches(source, list(source.entries()), size=2, max_bytes=4)
        for name, content in zip(batch.names, batch.load(), strict=True)
    ]

    assert found == [
        ("one.png", b"1"),
        ("two.png", Unreadable("the row must hold an image. Given: null")),
        ("a.parquet#1.0", Unreadable("the image must have at most 4 bytes. Given: more")),
    ]


def test_parquet_that_is_gone_is_no_error_of_an_image(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "a.parquet")
    source = Source(str(tmp_path))
    entries = list(source.entries())
    (tmp_path / "a.parquet").unlink()

    with pytest.raises(SourceError, match="must be readable"):
        list(batches(source, entries, size=2, max_bytes=4))


def test_a_name_that_is_no_utf_8_is_shown_as_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"1")
    source = Source(str(tmp_path))

    (batch,) = batches(source, list(source.entries()), size=2, max_bytes=4)

    assert batch.names == ["\N{REPLACEMENT CHARACTER}.png"]
    assert batch.load() == [b"1"]


def test_a_batch_is_read_only_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    source = Source(str(tmp_path))

    monkeypatch.setattr(reading, "_read_once", lambda *_: pytest.fail("read"))

    assert [batch.names for batch in batches(source, list(source.entries()), size=2, max_bytes=4)] == [["a.png"]]
