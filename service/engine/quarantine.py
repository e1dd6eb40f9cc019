"""The quarantine: versions that ended processes too often, in a file that all of a service's processes share.

Whatever ends a process is recorded under the identity of the version that was being computed. A version is in
quarantine for as long as the service runs; a new version has another identity. Knows nothing about processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)

Cause = Literal["image", "worker"]
"""An image that ended, alone, a process of its own; or a worker that died young while it computed the version."""

WINDOW_SECONDS = 60.0

LIMITS: Mapping[Cause, int] = {"image": 3, "worker": 5}
"""How often within WINDOW_SECONDS. Workers are killed by others too, so their deaths prove less."""

_MOST_BYTES = 1 << 20
"""Of the file, that are read: some 5,000 deaths."""


class _Death(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    cause: Cause
    time: float  # on time.monotonic()'s clock, which all processes of a machine share


class Quarantine:
    """The deaths in the file `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def record(self, version: str, cause: Cause) -> None:
        """Record that a process ended while it computed the version with that identity."""
        line = _Death(version=version, cause=cause, time=time.monotonic()).model_dump_json()
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, f"\n{line}\n".encode())  # in one write, and apart from a line that was cut off
            finally:
                os.close(file)
        except OSError as error:
            logger.warning("a death while computing %s cannot be recorded: %s", version.partition(" ")[0], error)

    def news(self) -> dict[str, str] | None:
        """Return why versions are in quarantine, by identity; None if nothing was recorded since the last call."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        if (found.st_mtime_ns, found.st_size) == self._seen:
            return None
        self._seen = found.st_mtime_ns, found.st_size
        return self._reasons()

    def _reasons(self) -> dict[str, str]:
        times: defaultdict[tuple[str, Cause], list[float]] = defaultdict(list)
        with self._path.open("rb") as file:
            lines = file.read(_MOST_BYTES).splitlines()
        for line in filter(None, lines):
            with contextlib.suppress(ValidationError):  # cut off by a full disk
                death = _Death.model_validate_json(line)
                times[death.version, death.cause].append(death.time)
        return {
            version: f"it ended {LIMITS[cause]} processes within {WINDOW_SECONDS:g} s; publish another version"
            for (version, cause), deaths in times.items()
            if _are_too_many(sorted(deaths), LIMITS[cause])
        }


def _are_too_many(times: list[float], limit: int) -> bool:
    return any(last - first <= WINDOW_SECONDS for first, last in zip(times, times[limit - 1 :], strict=False))
