"""A source lists the same images in the same order each time, and never fewer than there are."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from service.bulk.sources import Entry, Source, SourceError, image_column, walk
from tests import pictures


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def paths(source: Source) -> list[str]:
    return [os.fsdecode(entry.path) for entry in source.entries()]


def test_a_folder_gives_its_images_first_and_then_those_of_its_folders_by_name(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a/z.JPG", "a.webp", "a/y/x.gif", "notes.txt", "c/q.bmp")

    source = Source(str(tmp_path))

    assert source.kind == "files"
    assert paths(source) == ["a.webp", "b.png", "a/z.JPG", "a/y/x.gif", "c/q.bmp"]


def test_a_prefix_of_a_bucket_gives_the_same_as_a_folder(tmp_path: Path, bucket: str) -> None:
    names = ["b.png", "a/z.jpg", "a/[1].webp", "c.png"]
    write(tmp_path, *names)
    url = f"{bucket}/{uuid.uuid4().hex}"
    fs, root = fsspec.url_to_fs(url)
    for name in names:
        fs.pipe_file(f"{root}/{name}", b"content")

    assert paths(Source(url)) == paths(Source(str(tmp_path)))
    assert Source(url).url == url


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"content")

    assert list(Source(str(tmp_path)).entries()) == [Entry(b"\xff.png")]


def test_a_pipe_is_no_image_and_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a" / "b.png")

    assert paths(Source(str(tmp_path))) == ["link.png", "a/b.png"]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.png", "deep/b.png")
    scandir = os.scandir

    def deny(path: str) -> Any:
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    source = Source(str(tmp_path))
    monkeypatch.setattr(os, "scandir", deny)

    with pytest.raises(SourceError, match=r"must be readable.*deep"):
        list(source.entries())


def test_a_prefix_that_cannot_be_listed_is_an_error_and_not_left_out() -> None:
    class Store:
        def ls(self, path: str, detail: bool) -> list[dict[str, str]]:
            if path == "bucket/deep":
                raise PermissionError("denied")
            return [{"name": "bucket/a.png", "type": "file"}, {"name": "bucket/deep", "type": "directory"}]

    with pytest.raises(PermissionError):
        list(walk(Store(), "bucket"))


def test_a_store_without_credentials_is_an_error_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):  # botocore's is no OSError either
        pass

    def refuse(*_: object) -> bool:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(LocalFileSystem, "isdir", refuse)

    with pytest.raises(SourceError, match=r"SOURCE must be readable\. Given: .*: Unable to locate credentials"):
        Source(str(tmp_path))


def test_a_list_gives_its_lines_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"b.png\r\n\n/data/a b.png\ns3://bucket/c.jpg\n")

    source = Source(str(tmp_path / "list.txt"))

    assert source.kind == "list"
    assert source.root == str(tmp_path)
    assert paths(source) == ["b.png", "/data/a b.png", "s3://bucket/c.jpg"]


def test_a_picture_is_not_taken_for_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(pictures.row_png(7))

    with pytest.raises(SourceError, match=r"a text file with a path or URL a line\. Given: .*digit\.png, which is no"):
        list(Source(str(tmp_path / "digit.png")).entries())


def test_a_parquet_file_gives_its_row_groups(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2", b"3"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)

    expected = [Entry(b"a.parquet", 0, 2), Entry(b"a.parquet", 1, 1)]

    assert list(Source(str(tmp_path / "a.parquet")).entries()) == expected
    assert list(Source(str(tmp_path)).entries()) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (pa.schema({"image": pa.binary()}), ("image", None)),
        (pa.schema({"bytes": pa.large_binary(), "path": pa.string()}), ("bytes", "path")),
        (pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}), ("image.bytes", "image.path")),
        (pa.schema({"image": pa.struct({"bytes": pa.binary()}), "path": pa.string()}), ("image.bytes", "path")),
    ],
    ids=["binary", "with a path", "as Hugging Face writes it", "a struct and a path"],
)
def test_the_column_of_images_is_found(schema: pa.Schema, expected: tuple[str, str | None]) -> None:
    assert image_column(schema, "a.parquet") == expected


def test_parquet_without_images_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a path"], "label": [1]}), tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=r"must have a column .* Given: .*a.parquet with image, label"):
        list(Source(str(tmp_path)).entries())


def test_a_file_that_is_only_called_parquet_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet")

    with pytest.raises(SourceError, match="must be Parquet"):
        list(Source(str(tmp_path)).entries())


def test_images_beside_parquet_are_refused_rather_than_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.parquet")

    with pytest.raises(SourceError, match="either images or Parquet"):
        list(Source(str(tmp_path)).entries())


@pytest.mark.parametrize("name", ["", "nowhere"], ids=["an empty folder", "nothing"])
def test_a_source_without_images_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="SOURCE must"):
        Source(str(tmp_path / name))
