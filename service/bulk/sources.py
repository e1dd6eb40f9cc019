"""Sources of images: a folder, a bucket's prefix, a list of files, or Parquet that holds the images' bytes.

A source lists its entries in the same order each time, and few of them are in memory at once. Knows nothing about how
images are decoded or where results go.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.images.formats import SUFFIXES, other_endings

Kind = Literal["files", "list", "parquet"]


class SourceError(Exception):
    """A source that cannot be listed or read; the message says what was required."""


class Entry(NamedTuple):
    """A file, or a row group of a Parquet file."""

    path: bytes  # from the source's root on, or absolute, or a URL; names of files need not be UTF-8
    row_group: int = -1
    rows: int = 1


class Source:
    """Images at `url`, a path or any fsspec URL.

    Raises:
        SourceError: there is nothing, or nothing that holds images.
    """

    def __init__(self, url: str) -> None:
        try:
            self.fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
            self._path: str = path.rstrip("/")
            self.url: str = self.fs.unstrip_protocol(self._path)
            is_folder = self.fs.isdir(self._path)
            if not is_folder and not self.fs.isfile(self._path):
                raise SourceError(f"SOURCE must exist, also on each node that scores. Given: {url}")
            self.kind: Kind = self._kind(is_folder)
        except SourceError:
            raise
        except Exception as error:  # no such protocol, its package, credentials: each store has errors of its own
            raise SourceError(f"SOURCE must be readable. Given: {url}: {error}") from error
        self.passed_over: Counter[str] = Counter()
        """The files that `entries` passed over, by how their names end."""
        self.root = self._path if is_folder else self._path.rpartition("/")[0]
        self._is_folder = is_folder

    def entries(self) -> Iterator[Entry]:
        """List the images, in the same order each time.

        Raises:
            SourceError: a part of the source cannot be read, it holds images as well as Parquet, or a list is no text.
        """
        try:
            if self.kind == "list":
                yield from self._lines()
            elif self.kind == "files":
                yield from (Entry(self._relative(path)) for path in self._files())
            else:
                for path in self._files():
                    yield from self._row_groups(path)
        except OSError as error:
            raise SourceError(f"SOURCE must be readable. Given: {self.url}: {error}") from error

    def holds(self, url: str) -> bool:
        """Return whether what is written to `url` would be found by `entries`."""
        fs, path = fsspec.url_to_fs(url)
        if not self._is_folder or type(fs) is not type(self.fs):
            return False
        here, there = (
            os.path.realpath(each) if isinstance(fs, LocalFileSystem) else each for each in (self._path, path)
        )
        return f"{there.rstrip('/')}/".startswith(f"{here.rstrip('/')}/")

    def _kind(self, is_folder: bool) -> Kind:
        if not is_folder:
            return "parquet" if self._path.endswith(".parquet") else "list"
        first = next((path for path in walk(self.fs, self._path) if _is_image(path) or _is_table(path)), None)
        if first is None:
            raise SourceError(f"SOURCE must hold images ({' '.join(SUFFIXES)}) or Parquet. Given: {self.url}")
        return "parquet" if _is_table(first) else "files"

    def _files(self) -> Iterator[str]:
        if not self._is_folder:
            yield self._path
            return
        self.passed_over.clear()
        for path in walk(self.fs, self._path):
            if _is_image(path) if self.kind == "files" else _is_table(path):
                yield path
            elif _is_image(path) or _is_table(path):
                raise SourceError(f"SOURCE must hold either images or Parquet. Given: both, such as {path}")
            else:
                self.passed_over.update(other_endings([path]))

    def _lines(self) -> Iterator[Entry]:
        with self.fs.open(self._path, "rb") as file:
            for line in file:
                if b"\0" in line:  # a picture, say
                    raise SourceError(
                        "SOURCE must be a folder, Parquet, or a text file with a path or URL a line. "
                        f"Given: {self._path}, which is no text"
                    )
                if path := line.strip(b"\r\n"):
                    yield Entry(path)

    def _row_groups(self, path: str) -> Iterator[Entry]:
        import pyarrow
        from pyarrow import parquet

        try:
            with self.fs.open(path, "rb", **opening(self.fs)) as file:
                metadata = parquet.ParquetFile(file).metadata
                image_column(metadata.schema.to_arrow_schema(), path)
                for group in range(metadata.num_row_groups):
                    yield Entry(self._relative(path), group, metadata.row_group(group).num_rows)
        except pyarrow.ArrowException as error:
            raise SourceError(f"a .parquet file must be Parquet. Given: {path}: {error}") from error

    def _relative(self, path: str) -> bytes:
        return os.fsencode(path[len(self.root) + 1 :])


def walk(fs: Any, folder: str) -> Iterator[str]:
    """Return each file under a folder: first those in it, then those in its folders, each time sorted by name.

    Raises:
        OSError: a folder cannot be listed. fsspec's own `walk` passes over such folders below the first.
    """
    if isinstance(fs, LocalFileSystem):
        with os.scandir(folder) as found:
            # A link is followed to a file, not to a folder, which may hold the link; a pipe would be waited for.
            entries = sorted(
                (f"{folder}/{entry.name}", entry.is_dir(follow_symlinks=False))
                for entry in found
                if entry.is_symlink() or entry.is_file() or entry.is_dir()
            )
    else:
        found = fs.ls(folder, detail=True)
        entries = sorted((entry["name"].rstrip("/"), entry["type"] == "directory") for entry in found)
        entries = [(path, is_folder) for path, is_folder in entries if path != folder]  # a prefix's own marker
    yield from (path for path, is_folder in entries if not is_folder)
    for path in [path for path, is_folder in entries if is_folder]:
        yield from walk(fs, path)


def image_column(schema: Any, path: str) -> tuple[str, str | None]:
    """Return the column of images' bytes and that of their names, if there is one.

    The bytes are in `image` or `bytes`; `image` may also be a struct of `bytes` and `path`, as Hugging Face writes it.

    Raises:
        SourceError: there is no such column.
    """
    import pyarrow

    name = "path" if "path" in schema.names else None
    for column in ("image", "bytes"):
        if column not in schema.names:
            continue
        kind = schema.field(column).type
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return column, name
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            own = f"{column}.path" if kind.get_field_index("path") >= 0 else None
            return f"{column}.bytes", name or own
    raise SourceError(
        "Parquet must have a column `image` or `bytes` of binary, or a struct `image` with `bytes`. "
        f"Given: {path} with {', '.join(schema.names)}"
    )


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _is_table(path: str) -> bool:
    return path.endswith(".parquet")


def opening(fs: Any) -> dict[str, str]:
    """Return the options with which a file of which little is read is opened."""
    return {} if isinstance(fs, LocalFileSystem) else {"cache_type": "none"}
