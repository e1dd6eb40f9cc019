"""The store below a registry: files in a folder or in a bucket, listed in one call and written whole.

Knows nothing about models; what a path means is the registry's business.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.contract.lock import turn

CONNECT_SECONDS = 3
READ_SECONDS = 10
"""Longest wait for a bucket's next bytes. By default s3fs and botocore wait, and try again, for minutes."""

_TRIES = 2
_SETTLED_SECONDS = 2.0
"""A file that was changed more recently may change again without a sign: its time stamp is that coarse."""

Parts = tuple[str, ...]
"""A path below the root, one string for each segment."""


class RegistryError(Exception):
    """A registry that cannot give or take what was asked; the message says what was required."""


class NotInRegistryError(RegistryError):
    """No such model, version, alias or file."""


class CorruptVersionError(RegistryError):
    """A version whose files do not match its manifest, or whose manifest or alias cannot be understood."""


class UnreadableError(RegistryError):
    """One file or folder that cannot be read, in a registry that can."""


class Entry(NamedTuple):
    """A file as it was listed."""

    size: int
    tag: str
    """Changes with the file; '' if it may change without that."""


class Contents(NamedTuple):
    """What lies below a folder, at most three levels deep."""

    files: dict[Parts, Entry]
    folders: set[Parts]
    faults: dict[Parts, str]
    """Why a path cannot be looked at."""


class Store:
    """Files under `root`, a path or any fsspec URL; every method raises `RegistryError` or one of its kinds."""

    def __init__(self, root: str | Path) -> None:
        self.url = str(root)
        self.fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False, **_options(self.url))
        self._root = str(root).rstrip("/")
        self.is_folder = isinstance(self.fs, LocalFileSystem)
        if hasattr(self.fs, "read_timeout"):  # s3fs
            self.fs.retries = _TRIES

    def contents(self, *parts: str, is_relevant: Callable[[Parts], bool]) -> Contents:
        """List what lies below a folder and `is_relevant`; one call for a bucket, for each 1,000 files.

        A folder that is not there is empty. Paths include `parts`, and whatever is not relevant is not entered.
        """
        found = Contents({}, set(), {})
        with self.access("readable"), contextlib.suppress(FileNotFoundError):
            if self.is_folder:
                _scan(self.path(*parts), parts, is_relevant, found)
            else:
                self._find(parts, is_relevant, found)
        return found

    def _find(self, parts: Parts, is_relevant: Callable[[Parts], bool], found: Contents) -> None:
        listed: dict[str, dict[str, Any]] = self.fs.find(self.path(*parts), detail=True)
        start = len(self._root) + 1
        for name, info in listed.items():
            path = tuple(name[start:].split("/"))
            above = [path[:depth] for depth in range(len(parts) + 1, len(path))]
            if len(path) > 3 or info.get("type") != "file" or not all(map(is_relevant, (*above, path))):
                continue
            found.folders.update(above)
            found.files[path] = Entry(int(info["size"]), str(info.get("ETag") or info.get("etag") or ""))

    def read(self, *parts: str, most_bytes: int | None = None) -> bytes:
        """Return a file's bytes, of a folder's file at most `most_bytes` and one more."""
        path = self.path(*parts)
        with self.access("readable"):
            if self.is_folder:
                return _read(path, most_bytes)
            try:
                data: bytes = self.fs.cat_file(path)
            except PermissionError as error:
                raise UnreadableError(f"{'/'.join(parts)} must be readable. Given: {_reason(error)}") from error
        return data

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all: beside its name, then moved onto it."""
        path = self.path(*parts)
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        with self.access("writable"):
            try:
                self.fs.makedirs(folder, exist_ok=True)
                self.fs.pipe_file(beside, data)
                self.fs.mv(beside, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(beside)
                raise

    def create(self, data: bytes, *parts: str) -> bool:
        """Create a file; return False if it is there already."""
        path = self.path(*parts)
        with self.access("writable"):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                with self.fs.open(path, "xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    def exists(self, *parts: str) -> bool:
        with self.access("readable"):
            return bool(self.fs.exists(self.path(*parts)))

    def remove(self, *parts: str) -> None:
        """Remove a file if that can be done."""
        with contextlib.suppress(Exception):
            self.fs.rm_file(self.path(*parts))

    def remove_folder(self, *parts: str) -> None:
        """Remove a folder and what is in it if that can be done."""
        with contextlib.suppress(Exception):
            self.fs.rm(self.path(*parts), recursive=True)

    @contextlib.contextmanager
    def turn(self, *parts: str) -> Iterator[None]:
        """Inside the block nobody else is in a turn at the same path."""
        with self.access("writable"), turn(self.fs, self.path(*parts)):
            yield

    def path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextlib.contextmanager
    def access(self, ability: Literal["readable", "writable"]) -> Iterator[None]:
        """Turn what the store raises, which differs from store to store, into `RegistryError`."""
        try:
            yield
        except (RegistryError, FileExistsError):
            raise
        except FileNotFoundError as error:
            raise NotInRegistryError(f"{error.filename or error} is not in {self.url}.") from error
        except Exception as error:
            raise RegistryError(f"{self.url} must be {ability}. Given: {type(error).__name__}: {error}") from error


def _options(url: str) -> dict[str, Any]:
    """Return options with which a bucket that hangs is given up soon; those of fsspec's own settings come first."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    ours = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 0}}
    return {"config_kwargs": ours | given}


def _scan(folder: str, parts: Parts, is_relevant: Callable[[Parts], bool], found: Contents) -> None:
    """List a folder, through links; what is wrong with one entry hides no other.

    Raises:
        OSError: the folder itself cannot be read.
    """
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        path = (*parts, entry.name)
        if not is_relevant(path):
            continue
        try:
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode) and len(path) < 3:
                found.folders.add(path)
                _scan(entry.path, path, is_relevant, found)
            elif stat.S_ISREG(status.st_mode):
                found.files[path] = Entry(status.st_size, _tag(status))
            else:
                found.faults[path] = "it must be a file. Given: something else"
        except FileNotFoundError:
            if entry.is_symlink():  # else it was removed since it was listed
                found.faults[path] = "it must lead to a file or a folder. Given: a link to nothing"
        except OSError as error:
            found.faults[path] = f"it must be readable. Given: {_reason(error)}"


def _tag(status: os.stat_result) -> str:
    """Return what changes with a file, '' if that cannot be relied upon."""
    changed = max(status.st_mtime, status.st_ctime)
    if changed > time.time() - _SETTLED_SECONDS:
        return ""
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}-{status.st_size}"


def _read(path: str, most_bytes: int | None) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without waiting for a FIFO's writer
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnreadableError(f"{path} must be a file. Given: something else")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(-1 if most_bytes is None else most_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"{path} must be readable. Given: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror or error}"
