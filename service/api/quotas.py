"""Quotas of API keys: requests and images a second, held over all processes that take requests.

The processes share a table in memory, so that a client on a single connection gets all of its quota and one on many
gets no more. Each entry says until when what a key has used is paid for (GCRA: a leaky bucket of one number).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from service.api.keys import Key

BURST_SECONDS = 1.0
"""A key that was idle may use so many seconds' worth at once. A single larger use passes while nothing is owed."""

_ROUNDING_SECONDS = 1e-6
_LOCK_TRIES, _LOCK_SECONDS = 50, 0.0005
_ENTRY = struct.Struct("<Qdd")  # the start of a key's digest, and until when its requests and its images are paid for
_SETS = 1024
_WAYS = 16  # entries that a digest may be in; one that owes nothing is as good as none, and its place is given away


class Quotas:
    """The table; make it before the forks. `folder` gets a file to lock."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = mmap.mmap(-1, _SETS * _WAYS * _ENTRY.size)
        self._lock_path = folder / "quotas.lock"
        self._lock: int | None = None
        self._clock = clock

    def use_request(self, key: Key) -> float:
        """Use one request of a key's quota; return 0, or the seconds after which there will be room for it.

        There is none either while no further image has room, so that nothing is decoded in vain.
        """
        with self._entry(key) as entry:
            wait = max(
                _wait(entry.requests_until - entry.now, 1, key.requests_per_second),
                _wait(entry.images_until - entry.now, 1, key.images_per_second),
            )
            if not wait:
                entry.requests_until = _used(entry.requests_until, entry.now, 1, key.requests_per_second)
            return wait

    def use_images(self, key: Key, number: int) -> float:
        """Use so many images of a key's quota; return 0, or the seconds after which there will be room for them."""
        with self._entry(key) as entry:
            wait = _wait(entry.images_until - entry.now, number, key.images_per_second)
            if not wait:
                entry.images_until = _used(entry.images_until, entry.now, number, key.images_per_second)
            return wait

    @contextlib.contextmanager
    def _entry(self, key: Key) -> Iterator[_Entry]:
        """Lend a key's entry, which no other process reads or writes meanwhile."""
        if self._lock is None:  # in this process: a lock belongs to an open file, and forks share those
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        now = self._clock()
        if not _take(self._lock):
            yield _Entry(now, 0.0, 0.0)  # uncounted: a quota must not keep requests from their answers
            return
        try:
            digest = int(key.sha256[:16], 16)
            place = self._place(digest, now)
            known, *until = _ENTRY.unpack_from(self._table, place)
            entry = _Entry(now, *(until if known == digest else (0.0, 0.0)))
            yield entry
            _ENTRY.pack_into(self._table, place, digest, entry.requests_until, entry.images_until)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _place(self, digest: int, now: float) -> int:
        """Return where a key's entry is or, for a new one, where the one that owes least is."""
        start = digest % _SETS * _WAYS * _ENTRY.size
        least, chosen = float("inf"), start
        for place in range(start, start + _WAYS * _ENTRY.size, _ENTRY.size):
            known, requests_until, images_until = _ENTRY.unpack_from(self._table, place)
            if known == digest:
                return place
            owed = max(requests_until, images_until, now)
            if owed < least:
                least, chosen = owed, place
        return chosen


class _Entry:
    """What a key has used, while it is lent."""

    __slots__ = ("images_until", "now", "requests_until")

    def __init__(self, now: float, requests_until: float, images_until: float) -> None:
        self.now = now
        self.requests_until = requests_until
        self.images_until = images_until


def _take(lock: int) -> bool:
    """Lock a file; False if somebody keeps it locked for much longer than a use takes, for example a stopped process.

    The kernel frees the lock of a process that dies; a semaphore would stay taken for ever.
    """
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_SECONDS)
        else:
            return True
    return False


def _wait(owed_seconds: float, number: int, per_second: float) -> float:
    """Return the seconds until there is room for `number`, 0 if there is; without a quota there always is."""
    if not per_second or owed_seconds <= 0:
        return 0.0
    wait = owed_seconds + min(number / per_second, BURST_SECONDS) - BURST_SECONDS
    return wait if wait > _ROUNDING_SECONDS else 0.0


def _used(until: float, now: float, number: int, per_second: float) -> float:
    return max(until, now) + number / per_second if per_second else until
