"""The private folder of a running service, and the removal of those that crashed services left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "argmax-"
_LOCK = "running.lock"


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for this service, remove those whose service is gone, and remove it in the end.

    The folder's lock is held by this process and its forks, and by nobody once all of them are gone.
    """
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_PREFIX}*"):
        _remove_if_left_behind(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (folder / "new.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "new.lock").rename(folder / _LOCK)  # a lock that others see is held
            yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove the folder of a service, its lock last: without one, nobody removes what a kill leaves."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left_behind(folder: Path) -> None:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
    except OSError:  # in use, or not a service's folder, or gone already
        return
