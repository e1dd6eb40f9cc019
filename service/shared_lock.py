"""A lock that the processes of a service share. Knows nothing about what it guards."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_TRIES, _WAIT_SECONDS = 50, 0.0005


class SharedLock:
    """The lock of a file, which need not exist yet; for one thread of each process.

    The kernel frees the lock of a process that dies; a semaphore would stay taken for ever.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock; False if somebody keeps it for much longer than a use takes, such as a stopped process."""
        if self._file is None:  # in this process: a lock belongs to an open file, and forks share those
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_WAIT_SECONDS)
            else:
                return True
        return False

    def free(self) -> None:
        """Free the lock, which is taken."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
