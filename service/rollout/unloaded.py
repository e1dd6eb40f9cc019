"""The models that an administrator unloaded: a file that a service's processes share and that outlives each of them.

Every write also asks the workers to look at the registry now. Knows nothing about who may ask for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

_LOOK_SECONDS = 0.25


class Unloaded:
    """The names in `folder`, none at first; whoever waits sees the next write, too, if it came since the last wait."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "unloaded.json"
        self._seen = self._stamp()

    def names(self) -> frozenset[str]:
        """Return the models that must not be served."""
        try:
            return frozenset(orjson.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return frozenset()

    def unload(self, name: str, *, may: Callable[[frozenset[str]], None] = lambda _names: None) -> None:
        """Add a model; `may` is told which are unloaded then, and raises if they must not be."""
        with self._turn():
            names = self.names() | {name}
            may(names)
            self._write(names)

    def load(self, name: str) -> None:
        """Take a model out, if it is in, and ask for a look at the registry."""
        with self._turn():
            self._write(self.names() - {name})

    def nudge(self) -> None:
        """Ask for a look at the registry."""
        with self._turn():
            self._write(self.names())

    def wait(self, seconds: float) -> None:
        """Wait until somebody wrote since the last wait, or `seconds` have passed."""
        until = time.monotonic() + seconds
        while self._stamp() == self._seen and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
        self._seen = self._stamp()

    def _write(self, names: frozenset[str]) -> None:
        unfinished = self._path.with_suffix(".new")
        unfinished.write_bytes(orjson.dumps(sorted(names)))
        unfinished.replace(self._path)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile."""
        with self._path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
