"""API keys: who may ask for what. Knows nothing about HTTP beyond the value of one header.

The file holds a line for each key, `name scopes sha256`, where scopes are joined by commas and '#' begins a comment.
Behind it may stand how many requests and images a second the key may ask for:

    ci      predict        5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef  requests=50  images=200
    deploy  predict,admin  2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

A file that deliberately holds no key says so with the line `none`; one without either is taken for half-written.

Only hashes are stored. A key is 256 random bits, which no salt or slow hash would make harder to guess.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import NamedTuple

from service.counting import counted

logger = logging.getLogger(__name__)

SCOPES = frozenset({"predict", "feedback", "admin"})

MAX_FILE_BYTES = 4 * 2**20
"""Of a file of keys; room for 40,000."""

SETTLE_SECONDS = 0.5
"""For which a file must stay as it is before keys that it no longer holds are refused: it may be half-written."""

_PREFIX = "argmax_"
_NO_KEYS = "none"
_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_HEXADECIMAL = frozenset("0123456789abcdef")


class KeysError(ValueError):
    """A file of keys that cannot be read."""


class Key(NamedTuple):
    name: str
    scopes: frozenset[str]
    sha256: str
    requests_per_second: float = 0.0
    """At most; 0 is without limit, as below."""
    images_per_second: float = 0.0

    @property
    def quota(self) -> str:
        """The key's quotas as they stand in its line; '' for none."""
        given = (("requests", self.requests_per_second), ("images", self.images_per_second))
        return " ".join(f"{name}={rate:g}" for name, rate in given if rate)


class Keys:
    """The keys in a file. `refresh` reads it again; whoever owns this calls it while `has_news`.

    New keys count at once. Keys that are gone count until the file has settled, and if it is broken, or empty without
    saying `none`, until it is whole again.

    Raises:
        KeysError: the file cannot be read or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._seen = self._look()
        self._known = _by_digest(read(self._path))
        self._next: dict[str, Key] | None = None  # what counts alone once the file has settled
        self._changed_at = 0.0  # on time.monotonic()'s clock
        if not self._known:
            logger.warning("%s holds no API key: every request that needs one is refused", self._path)

    def find(self, presented: str) -> Key | None:
        """Return the entry of the key `presented`, or None.

        How long the look-up takes may tell something about a digest, but who cannot invert SHA-256 cannot choose
        digests to learn from it: comparing with each key in constant time would only be slow.
        """
        return self._known.get(hashlib.sha256(presented.encode()).hexdigest())

    def has_news(self) -> bool:
        """Return whether `refresh` has something to do; costs one look at the file's status."""
        return self._next is not None or self._look() != self._seen

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing and is logged.

        May run on another thread than `find`: 20,000 keys take a tenth of a second.
        """
        looked = self._look()
        if looked != self._seen:
            self._seen, self._changed_at, self._next = looked, time.monotonic(), None
            try:
                text = _text(self._path)
                found = _by_digest(_parse(text, self._path))
                if not found and not _says_none(text):
                    raise KeysError(f"a file of API keys must hold one, or the line '{_NO_KEYS}'. Given: neither")
            except KeysError as error:
                logger.error("the keys stay as they were: %s", error)
            else:
                self._known = self._known | found
                self._next = found
        elif self._next is not None and time.monotonic() - self._changed_at >= SETTLE_SECONDS:
            self._known, self._next = self._next, None
            logger.info("read %s from %s", counted(len(self._known), "API key"), self._path)

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
    return _parse(_text(path), path)


def _text(path: Path) -> str:
    """Return what a file says, without waiting for anything that is no file.

    Raises:
        KeysError: it cannot be read, is no regular file, too large, or no UTF-8.
    """
    try:
        content = _content(path)
        if len(content) > MAX_FILE_BYTES:
            raise KeysError(f"the file of API keys must be at most {MAX_FILE_BYTES:,} bytes. Given: more")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"the file of API keys must be readable. Given: {error}") from error


def _content(path: Path) -> bytes:
    """Return the bytes of a file, of one that is too large the start."""
    # A FIFO that nobody writes to would block without O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise KeysError(f"the file of API keys must be a regular file. Given: {path}, which is none")
        content = bytearray()
        while len(content) <= MAX_FILE_BYTES and (piece := os.read(descriptor, MAX_FILE_BYTES)):
            content += piece
        return bytes(content)
    finally:
        os.close(descriptor)


def _parse(text: str, path: Path) -> list[Key]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields or fields == [_NO_KEYS]:
            continue
        scopes = frozenset(fields[1].split(",")) if len(fields) >= 3 else frozenset()
        digest = fields[2].lower() if len(fields) >= 3 else ""
        quotas = _quotas(fields[3:])
        is_digest = len(digest) == 64 and _HEXADECIMAL.issuperset(digest)
        if not scopes or not scopes <= SCOPES or not is_digest or quotas is None:
            known = ",".join(sorted(SCOPES))
            raise KeysError(
                f"line {number} of {path} must be: name, scopes of {known}, sha256 of the key in hex, and behind it, "
                "if they are limited, requests=N and images=N a second"
            )
        keys.append(Key(fields[0], scopes, digest, *quotas))
    return keys


def _quotas(fields: list[str]) -> tuple[float, float] | None:
    """Return the requests and images a second that the end of a line allows, 0 for no limit; None if it is wrong."""
    found = {"requests": 0.0, "images": 0.0}
    for field in fields:
        name, _, text = field.partition("=")
        if found.get(name) != 0.0 or not _RATE.fullmatch(text) or not float(text):
            return None
        found[name] = float(text)
    return found["requests"], found["images"]


def _says_none(text: str) -> bool:
    return any(line.partition("#")[0].strip() == _NO_KEYS for line in text.splitlines())


def _by_digest(keys: list[Key]) -> dict[str, Key]:
    return {key.sha256: key for key in keys}


def make(name: str, scopes: frozenset[str], *, requests: float = 0, images: float = 0) -> tuple[str, str]:
    """Make a new key, to be shown once, with quotas if they are not 0; return it and its line in the file."""
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = Key(name, scopes, hashlib.sha256(key.encode()).hexdigest(), requests, images)
    return key, f"{name} {','.join(sorted(scopes))} {entry.sha256} {entry.quota}".rstrip()


def add(path: Path, name: str, scopes: frozenset[str], *, requests: float = 0, images: float = 0) -> str:
    """Add a new key to the file, which is created if there is none, and return the key.

    Raises:
        KeysError: the name cannot stand in a line or is taken, or the file holds something else.
        OSError: the file cannot be written.
    """
    if not name.isprintable() or len(name.split()) != 1 or "#" in name:
        raise KeysError(f"a name must be one word without '#'. Given: {name!r}")
    if path.exists() and any(key.name == name for key in read(path)):
        raise KeysError(f"the name of a new key must be new. Given: {name}, which {path} has already")
    key, line = make(name, scopes, requests=requests, images=images)
    path.touch(mode=0o600)
    with path.open("ab+", buffering=0) as file:  # one write, so that a service reads whole lines meanwhile
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_open_ended = file.read(1) not in (b"", b"\n")
        file.write(f"{chr(10) * is_open_ended}{line}\n".encode())
    return key


def remove(path: Path, name: str) -> None:
    """Take the lines of the key `name` out of the file; comments and other lines stay as they are.

    Without the last key, the file says `none`.

    Raises:
        KeysError: there is no such key, or the file holds something else.
        OSError: the file cannot be written.
    """
    known = [key.name for key in read(path)]
    if name not in known:
        raise KeysError(f"the name must be one of {known} in {path}. Given: {name!r}")
    path = path.resolve()  # a link stays one
    kept = [line for line in path.read_text().splitlines() if line.partition("#")[0].split()[:1] != [name]]
    if set(known) == {name}:
        kept.append(_NO_KEYS)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    shutil.copymode(path, partial)
    partial.replace(path)
