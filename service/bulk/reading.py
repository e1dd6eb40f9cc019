"""The bytes of a shard's images, batch by batch. Knows nothing about decoding.

A file that is not there is that file's error. A store that does not answer is the shard's: it is tried again, and never
recorded as if its images were bad.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.bulk.sources import Entry, Source, SourceError, image_column, opening

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5  # doubled after each attempt; below it the store's own client has tried again already


class Unreadable(NamedTuple):
    """The reason why one image has no bytes."""

    reason: str


Content = bytes | Unreadable


class Batch(NamedTuple):
    """Images that are decoded together: their names, and how to get their bytes, which may take a while."""

    names: list[str]
    load: Callable[[], list[Content]]


def batches(source: Source, entries: list[Entry], *, size: int, max_bytes: int) -> Iterator[Batch]:
    """Return a shard's images in order, `size` at a time. A file of more than `max_bytes` is unreadable.

    Raises:
        SourceError: a Parquet file cannot be read.
    """
    if source.kind == "parquet":
        return _of_tables(source, entries, size, max_bytes)
    return _of_files(source, entries, size, max_bytes)


def _of_files(source: Source, entries: list[Entry], size: int, max_bytes: int) -> Iterator[Batch]:
    for start in range(0, len(entries), size):
        paths = [os.fsdecode(entry.path) for entry in entries[start : start + size]]
        yield Batch([_shown(path) for path in paths], functools.partial(read_files, source, paths, max_bytes))


def _of_tables(source: Source, entries: list[Entry], size: int, max_bytes: int) -> Iterator[Batch]:
    import pyarrow
    from pyarrow import parquet

    for entry in entries:
        path = os.fsdecode(entry.path)
        try:
            with source.fs.open(f"{source.root}/{path}", "rb", **opening(source.fs)) as file:
                table = parquet.ParquetFile(file, buffer_size=1 << 20)
                column, name = image_column(table.schema_arrow, path)
                row = 0
                wanted = [column, name] if name else [column]
                for rows in table.iter_batches(size, row_groups=[entry.row_group], columns=wanted):
                    contents = [_limited(image, max_bytes) for image in _values(rows, column)]
                    places = [f"{path}#{entry.row_group}.{number}" for number in range(row, row + len(contents))]
                    names = _values(rows, name) if name else places
                    row += len(contents)
                    names = [_shown(str(given or place)) for given, place in zip(names, places, strict=True)]
                    yield Batch(names, functools.partial(list, contents))
        except (OSError, pyarrow.ArrowException) as error:
            raise SourceError(f"{path} must be readable. Given: {type(error).__name__}: {error}") from error


def _values(rows: Any, column: str) -> list[Any]:
    name, _, field = column.partition(".")
    values: list[Any] = rows.column(name).to_pylist()
    return [value and value[field] for value in values] if field else values


def _limited(image: bytes | None, max_bytes: int) -> Content:
    if image is None:
        return Unreadable("the row must hold an image. Given: null")
    return image if len(image) <= max_bytes else _too_large(max_bytes)


def read_files(source: Source, paths: list[str], max_bytes: int) -> list[Content]:
    """Return the bytes of files, or why one of them has none.

    Raises:
        SourceError: the store does not answer, not even after several attempts.
    """
    found: dict[int, Content] = {}
    pause = _PAUSE_SECONDS
    for attempt in range(_ATTEMPTS):
        missing = [place for place in range(len(paths)) if place not in found]
        trouble = None
        for place, content in zip(missing, _read_once(source, [paths[p] for p in missing], max_bytes), strict=True):
            if isinstance(content, BaseException):
                trouble = content
            else:
                found[place] = content
        if trouble is None:
            return [found[place] for place in range(len(paths))]
        if attempt + 1 < _ATTEMPTS:
            time.sleep(pause)
            pause *= 2
    raise SourceError(
        f"SOURCE must be readable. Given: {type(trouble).__name__} in {_ATTEMPTS} attempts: {trouble}"
    ) from trouble


def _read_once(source: Source, paths: list[str], max_bytes: int) -> list[Content | BaseException]:
    """Read files, those of one remote store all at once."""
    found: list[Content | BaseException] = [Unreadable("")] * len(paths)
    remote: dict[int, tuple[Any, list[int], list[str]]] = {}
    for place, path in enumerate(paths):
        fs, full = _locate(source, path)
        if isinstance(fs, LocalFileSystem):
            found[place] = _read_local(full, max_bytes)
        else:
            _, places, fulls = remote.setdefault(id(fs), (fs, [], []))
            places.append(place)
            fulls.append(full)
    for fs, places, fulls in remote.values():
        # Not `cat`, which takes the brackets in a file's name for a pattern. And a range, lest a giant is fetched.
        for place, content in zip(places, fs.cat_ranges(fulls, 0, max_bytes + 1, on_error="return"), strict=True):
            found[place] = _judged(content, max_bytes)
    return found


def _locate(source: Source, path: str) -> tuple[Any, str]:
    if source.kind == "list":
        if "://" in path:
            fs, full = fsspec.url_to_fs(path)
            return fs, full
        if path.startswith("/"):
            return fsspec.filesystem("file"), path
    return source.fs, f"{source.root}/{path}"


_OF_THE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors of one file on a disk, not of the disk."""


def _read_local(path: str, max_bytes: int) -> Content | BaseException:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - no object more for each of millions
            if os.fstat(file.fileno()).st_size > max_bytes:
                return _too_large(max_bytes)
            content = file.read(max_bytes + 1)  # also of what says that it has none, such as a device
            return content if len(content) <= max_bytes else _too_large(max_bytes)
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            return Unreadable(f"the file must be readable. Given: {error.strerror}")
        return error


def _judged(content: bytes | BaseException, max_bytes: int) -> Content | BaseException:
    if isinstance(content, FileNotFoundError):
        return Unreadable("the file must be readable. Given: No such file or directory")
    if isinstance(content, BaseException):
        # A range of an empty object; HTTP calls that 416.
        return b"" if "not satisfiable" in str(content) else content
    return content if len(content) <= max_bytes else _too_large(max_bytes)


def _too_large(max_bytes: int) -> Unreadable:
    return Unreadable(f"the image must have at most {max_bytes:,} bytes. Given: more")


def _shown(name: str) -> str:
    """Return a name as text that Parquet takes, whatever bytes it was."""
    return os.fsencode(name).decode("utf-8", "replace")
