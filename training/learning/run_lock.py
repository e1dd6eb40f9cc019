"""The lock of a run's folder: one process at a time trains there. Knows nothing about what is in the folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import IO

from training.errors import OptionError, TrainingError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def turn(file: Path) -> Iterator[None]:
    """Wait for an exclusive lock on `file` and hold it inside the block; it is released if the process dies."""
    with _opened(file) as lock:
        try:
            if not _locked(lock):
                logger.info("another process is doing this run: waiting for it to end")
                _locked(lock, wait=True)
        except OSError as error:
            raise TrainingError(f"runs_dir must be on a file system that locks files. Given: {error}") from error
        yield


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on `file` inside the block; it is released if the process dies.

    Raises:
        TrainingError: another process holds it.
    """
    with _opened(file) as lock:
        try:
            free = _locked(lock)
        except OSError as error:
            logger.info("another run in %s would not be noticed: files cannot be locked there: %s", file.parent, error)
            free = True
        if not free:
            raise TrainingError(
                f"a run must be alone in its folder. Given: {file.parent}, where another process trains the same. Wait "
                "for it to end, or name another folder with --runs-dir."
            )
        yield


def _opened(file: Path) -> IO[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a")
    except OSError as error:
        raise OptionError(f"runs_dir must be a folder to write to. Given: {error}") from error
    # Else the processes that prepare batches hold the lock too, for seconds after this one was killed.
    register_after_fork(opened, lambda inherited: inherited.close())
    return opened


def _locked(lock: IO[str], *, wait: bool = False) -> bool:
    """Lock an open file and return whether that was done: without `wait`, not if another process holds the lock."""
    import fcntl  # not on Windows, where the rest of the package may be imported

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
