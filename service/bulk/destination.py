"""The folder or prefix that results are written to: parts that are whole or not there, and a mark when all are.

    <destination>/part-000000.parquet   a shard's rows
    <destination>/_plan/                what is computed here, see `plan`
    <destination>/_SUCCESS              every part is there

Readers of Parquet folders (pyarrow, Spark, DuckDB's *.parquet) pass over names with an underscore or a dot in front.
Knows nothing about images or models.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

SUCCESS = "_SUCCESS"
PLAN = "_plan"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_TEMPORARY = ".writing-"


def part_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"part-{shard:06d}.parquet"


class Destination:
    """A folder, or any fsspec URL. All of it raises OSError when the store cannot be read or written."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
            self._fs.exists(root)
        except Exception as error:  # no such protocol, its package, credentials: each store has errors of its own
            raise OSError(f"--out must be a folder or a URL that can be written to. Given: {url}: {error}") from error
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self.url: str = self._fs.unstrip_protocol(self._root) if not self._is_local else self._root

    def parts(self) -> set[int]:
        """Return the shards whose parts are there."""
        return {int(match[1]) for name in self.names() if (match := _PART.fullmatch(name))}

    def has_part(self, shard: int) -> bool:
        """Return whether a shard's part is there."""
        return bool(self._fs.exists(self._path(part_name(shard))))

    def names(self, *folder: str) -> list[str]:
        """Return the names of what is in a folder; none if there is no such folder."""
        try:
            entries: list[dict[str, Any]] = self._fs.ls(self._path(*folder), detail=True)
        except FileNotFoundError:
            return []
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries]

    def read(self, *name: str) -> bytes | None:
        """Return a file's content; None if it is not there."""
        try:
            return cast(bytes, self._fs.cat_file(self._path(*name)))
        except FileNotFoundError:
            return None

    def write(self, data: bytes, *name: str) -> None:
        """Write a file whole or not at all: to a temporary name beside it, then moved into place."""
        path = self._path(*name)
        temporary = self._temporary(path)
        try:
            if self._is_local:
                _write_and_sync(temporary, data)
                os.replace(temporary, path)  # noqa: PTH105
            else:
                self._fs.pipe_file(temporary, data)
                self._fs.mv(temporary, path)
        except FileNotFoundError:
            if not self._fs.exists(path):  # else another process wrote the same and tidied up
                raise
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def claim(self, data: bytes, *name: str) -> bool:
        """Write a file that must not be there yet, whole; return whether it was not."""
        path = self._path(*name)
        try:
            if self._is_local:
                temporary = self._temporary(path)
                try:
                    _write_and_sync(temporary, data)
                    os.link(temporary, path)  # to create `path` itself would show it to others while it is empty
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(temporary)  # noqa: PTH107
            else:
                with self._fs.open(path, "xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        return True

    def open(self, mode: str, *name: str) -> BinaryIO:
        """Open a file to stream it; what is read is fetched range by range."""
        path = self._path(*name)
        if mode == "wb":
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            return cast(BinaryIO, self._fs.open(path, mode))
        return cast(BinaryIO, self._fs.open(path, mode, cache_type="none"))

    def remove(self, *name: str) -> None:
        """Remove a file or a folder, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(*name), recursive=True)

    def tidy(self) -> None:
        """Remove what writers that were killed have left behind."""
        for name in self.names():
            if name.startswith(_TEMPORARY):
                self.remove(name)

    def _path(self, *name: str) -> str:
        return "/".join((self._root, *name))

    def _temporary(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return f"{folder}/{_TEMPORARY}{name}-{uuid.uuid4().hex}"


# fsspec's paths are strings, and so are these.


def _write_and_sync(path: str, data: bytes) -> None:
    os.makedirs(path.rpartition("/")[0], exist_ok=True)  # noqa: PTH103
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a machine that fails after the file has its name must not leave it empty
