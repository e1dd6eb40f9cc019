"""The folder where each process leaves its snapshot, whole at any time, for whoever is asked for all of them.

A process that died has left its last snapshot. The keeper (the supervisor, which outlives all others) adds it to its
own and says so in the same write, so that its numbers are in the sum exactly once at any moment and no counter goes
back.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from service.telemetry.metrics.totals import Snapshot, Totals

KEEPER = "keeper"

_SUFFIX = ".numbers"


class Shared:
    """The snapshots in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def name(self) -> str:
        """Return a name for this process's snapshot, which no other has had: pids are used again."""
        return f"{os.getpid()}-{time.monotonic_ns()}"

    def names(self, pid: int | None = None) -> list[str]:
        """Return the names of the snapshots of all processes but the keeper, or of one."""
        pattern = f"{'*' if pid is None else pid}-*{_SUFFIX}"
        return [path.name.removesuffix(_SUFFIX) for path in self._folder.glob(pattern)]

    def write(self, name: str, data: bytes) -> None:
        """Put a snapshot in the place of the one before, in one step."""
        place = self._folder / f"{name}{_SUFFIX}"
        unfinished = place.with_suffix(".new")
        unfinished.write_bytes(data)
        unfinished.replace(place)

    def read(self, name: str) -> Snapshot | None:
        try:
            return Snapshot.from_bytes((self._folder / f"{name}{_SUFFIX}").read_bytes())
        except (FileNotFoundError, ValueError):  # it is gone, or was cut off by a crash of the machine
            return None

    def remove(self, name: str) -> None:
        for suffix in (_SUFFIX, ".new"):
            with contextlib.suppress(FileNotFoundError):
                (self._folder / f"{name}{suffix}").unlink()

    def read_all(self) -> Snapshot:
        """Return every process's numbers together."""
        # The keeper's last: what it has absorbed by then is left out, and what it had not was still to be read.
        living = {name: snapshot for name in self.names() if (snapshot := self.read(name))}
        everything = self.read(KEEPER) or Snapshot(Totals(), {})
        for name, snapshot in living.items():
            if name not in everything.absorbed:
                everything.merge(snapshot)
        return everything
