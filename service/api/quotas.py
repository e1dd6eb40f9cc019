"""Quotas of API keys: requests and images a second, held over all processes that take requests.

The processes share a table in memory, so that a client on a single connection gets all of its quota and one on many
gets no more. Each entry says until when what a key has used is paid for (GCRA: a leaky bucket of one number).
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

from service.api.keys import Key
from service.shared_lock import SharedLock

BURST_SECONDS = 1.0
"""A key that was idle may use so many seconds' worth at once. A single larger use passes while nothing is owed."""

_ROUNDING_SECONDS = 1e-6
_ENTRY = struct.Struct("<Qdd")  # the start of a key's digest, and until when its requests and its images are paid for
_SETS = 1024
_WAYS = 16  # entries that a digest may be in; one that owes nothing is as good as none, and its place is given away


class Quotas:
    """The table; make it before the forks. `folder` gets a file to lock."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = mmap.mmap(-1, _SETS * _WAYS * _ENTRY.size)
        self._lock = SharedLock(folder / "quotas.lock")
        self._clock = clock

    def use_request(self, key: Key) -> float:
        """Use one request of a key's quota; return 0, or the seconds after which there will be room for it.

        There is none either while no further image has room, so that nothing is decoded in vain.
        """
        return self._use(key, requests=1, images=0)

    def use_images(self, key: Key, number: int) -> float:
        """Use so many images of a key's quota; return 0, or the seconds after which there will be room for them."""
        return self._use(key, requests=0, images=number)

    def _use(self, key: Key, *, requests: int, images: int) -> float:
        if not self._lock.take():
            return 0.0  # uncounted: a quota must not keep requests from their answers
        try:
            now = self._clock()
            digest = int(key.sha256[:16], 16)
            place = self._place(digest, now)
            known, requests_until, images_until = _ENTRY.unpack_from(self._table, place)
            if known != digest:
                requests_until = images_until = 0.0
            wait = _wait(images_until - now, images or 1, key.images_per_second)
            if requests:
                wait = max(wait, _wait(requests_until - now, requests, key.requests_per_second))
            if not wait:
                requests_until = _used(requests_until, now, requests, key.requests_per_second)
                images_until = _used(images_until, now, images, key.images_per_second)
                _ENTRY.pack_into(self._table, place, digest, requests_until, images_until)
            return wait
        finally:
            self._lock.free()

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


def _wait(owed_seconds: float, number: int, per_second: float) -> float:
    """Return the seconds until there is room for `number`, 0 if there is; without a quota there always is."""
    if not per_second or owed_seconds <= 0:
        return 0.0
    wait = owed_seconds + min(number / per_second, BURST_SECONDS) - BURST_SECONDS
    return wait if wait > _ROUNDING_SECONDS else 0.0


def _used(until: float, now: float, number: int, per_second: float) -> float:
    return max(until, now) + number / per_second if per_second else until
