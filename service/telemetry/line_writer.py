"""A writer of log lines that never blocks its caller. Knows nothing about what the lines say."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time

_MAX_UNWRITTEN_BYTES = 1 << 20
_WRITE_BYTES = 4096  # a pipe takes this much in one piece, so that lines of several processes do not mix


class LineWriter:
    """Writes to a file descriptor on a thread, which starts with the first line."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._unwritten = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> bool:
        """Queue whole lines to be written; False if too much waits already."""
        with self._lock:
            if self._unwritten + len(data) > _MAX_UNWRITTEN_BYTES:
                return False
            self._unwritten += len(data)
        if self._thread is None:
            # A daemon, because it may hang on a full pipe for ever, and the process must be able to end.
            self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
            self._thread.start()
        self._waiting.put(data)
        return True

    def wait(self, seconds: float) -> None:
        """Wait until all is written, or `seconds` have passed."""
        until = time.monotonic() + seconds
        while self._unwritten and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            data = self._waiting.get()
            try:
                for piece in _pieces(data):
                    _write_all(self._descriptor, piece)
            except OSError as error:  # the other end is gone
                logging.getLogger(__name__).debug("request lines are lost: %s", error)
            with self._lock:
                self._unwritten -= len(data)


def _pieces(data: bytes) -> list[bytes]:
    """Cut `data` at ends of lines into pieces that a pipe takes whole."""
    pieces = []
    start = 0
    while len(data) - start > _WRITE_BYTES:
        end = data.rfind(b"\n", start, start + _WRITE_BYTES) + 1 or data.find(b"\n", start) + 1 or len(data)
        pieces.append(data[start:end])
        start = end
    return [*pieces, data[start:]]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
