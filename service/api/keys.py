"""API keys: who may ask what. Knows nothing about HTTP beyond the value of one header.

The file holds a line for each key, `name scopes sha256`, where scopes are joined by commas and '#' begins a comment:

    ci      predict        5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
    deploy  predict,admin  2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

Only hashes are stored. A key is 256 random bits, which no salt or slow hash would make harder to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

SCOPES = frozenset({"predict", "admin"})

_PREFIX = "argmax_"


class KeysError(ValueError):
    """A file of keys that cannot be read."""


class Key(NamedTuple):
    name: str
    scopes: frozenset[str]
    sha256: str


class Keys:
    """The keys in a file; `refresh` must be called now and then to notice that the file has changed.

    Raises:
        KeysError: the file cannot be read or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._signature = self._look()
        self._keys = read(self._path)

    def find(self, presented: str) -> Key | None:
        """Return the entry of the key `presented`, compared with every one in the same time."""
        digest = hashlib.sha256(presented.encode()).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing and is logged."""
        signature = self._look()
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._keys = read(self._path)
        except KeysError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("read %d API key(s) from %s", len(self._keys), self._path)

    def _look(self) -> tuple[int, int, int]:
        """Return what changes with the file: a mounted secret is replaced through a link, so its inode does."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_size)


def read(path: Path) -> list[Key]:
    """Return the keys in a file.

    Raises:
        KeysError: with the line that is wrong, but not what it says.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"the file of API keys must be readable. Given: {error}") from error
    keys = []
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        scopes = frozenset(fields[1].split(",")) if len(fields) == 3 else frozenset()
        digest = fields[-1].lower()
        if not scopes or not scopes <= SCOPES or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            known = ",".join(sorted(SCOPES))
            raise KeysError(f"line {number} of {path} must be: name, scopes of {known}, sha256 of the key in hex")
        keys.append(Key(fields[0], scopes, digest))
    return keys


def make(name: str, scopes: frozenset[str]) -> tuple[str, str]:
    """Make a new key, to be shown once; return it and its line in the file."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, f"{name} {','.join(sorted(scopes))} {hashlib.sha256(key.encode()).hexdigest()}"


def add(path: Path, name: str, scopes: frozenset[str]) -> str:
    """Add a new key to the file, which is created if there is none, and return the key.

    Raises:
        KeysError: the name cannot stand in a line or is taken, or the file holds something else.
        OSError: the file cannot be written.
    """
    if not name.isprintable() or len(name.split()) != 1 or "#" in name:
        raise KeysError(f"a name must be one word without '#'. Given: {name!r}")
    if path.exists() and any(key.name == name for key in read(path)):
        raise KeysError(f"the name of a new key must be new. Given: {name}, which {path} has already")
    key, line = make(name, scopes)
    path.touch(mode=0o600)
    with path.open("ab+", buffering=0) as file:  # one write, so that a service reads whole lines meanwhile
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_open_ended = file.read(1) not in (b"", b"\n")
        file.write(f"{chr(10) * is_open_ended}{line}\n".encode())
    return key


def remove(path: Path, name: str) -> None:
    """Take the lines of the key `name` out of the file; comments and other lines stay as they are.

    Raises:
        KeysError: there is no such key, or the file holds something else.
        OSError: the file cannot be written.
    """
    known = [key.name for key in read(path)]
    if name not in known:
        raise KeysError(f"the name must be one of {known} in {path}. Given: {name!r}")
    path = path.resolve()  # a link stays one
    kept = [line for line in path.read_text().splitlines() if line.partition("#")[0].split()[:1] != [name]]
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    shutil.copymode(path, partial)
    partial.replace(path)
