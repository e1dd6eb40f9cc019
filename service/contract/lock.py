"""Turns at what several machines write in one store: one holder at a time, also when a holder dies.

The store need only create a file that must not be there yet. Knows nothing about what is done in a turn.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

_LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
"""A turn is a few reads and writes; whoever has held one for this long is taken for dead."""


@contextlib.contextmanager
def turn(fs: Any, folder: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Inside the block nobody else is in a turn at `folder` of the fsspec store `fs`.

    A turn is a file with a number for a name, and the highest number holds it. Who waits for one that dies claims the
    number after it: of several that wait, one gets it, and no clock but their own is asked.
    """
    number = _claim(fs, folder, patience_seconds)
    try:
        yield
    finally:
        for finished in _numbers(fs, folder):  # in their order: while others are looking, the highest is still ours
            if finished <= number:
                with contextlib.suppress(Exception):  # what stays behind is taken for dead
                    fs.rm_file(f"{folder}/{finished}")


def _claim(fs: Any, folder: str, patience_seconds: float) -> int:
    watched: tuple[int, bytes] | None = None
    since = time.monotonic()
    fs.makedirs(folder, exist_ok=True)
    while True:
        held = max(_numbers(fs, folder), default=0)
        if not held:
            if _create(fs, f"{folder}/1"):
                return 1
            continue
        try:
            seen = (held, fs.cat_file(f"{folder}/{held}"))
        except FileNotFoundError:
            continue
        if seen != watched:
            watched, since = seen, time.monotonic()
        elif time.monotonic() - since > patience_seconds and _create(fs, f"{folder}/{held + 1}"):
            return held + 1
        time.sleep(_LOOK_SECONDS)


def _create(fs: Any, path: str) -> bool:
    try:
        with fs.open(path, "xb") as file:
            file.write(uuid.uuid4().hex.encode())  # tells this turn from the next one of the same number
    except FileExistsError:
        return False
    return True


def _numbers(fs: Any, folder: str) -> list[int]:
    try:
        names = [str(entry["name"]).rsplit("/", 1)[-1] for entry in fs.ls(folder, detail=True)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())
