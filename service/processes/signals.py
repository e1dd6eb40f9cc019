"""SIGTERM, Ctrl-C and SIGHUP in the service's processes: the supervisor decides, its children follow."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP too, which a terminal sends to all when it is closed. There is nothing to reload: files are watched."""


class StopRequests:
    """Counts the stop signals that this process receives while `listening`."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        """Handle the stop signals; yields a file descriptor that becomes readable with each."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        previous_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # nohup starts a program with SIGHUP ignored, and so it stays.
        heard = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._count) for number in heard}
        try:
            yield reader
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_wakeup)
            os.close(reader)
            os.close(writer)

    def _count(self, *_: object) -> None:
        self.count += 1


def start_child(process: BaseProcess) -> BaseProcess:
    """Start a child with the stop signals blocked until it calls `leave_signals_to_supervisor`.

    Otherwise Ctrl-C ends a worker that is still importing, and a SIGTERM right after the fork runs the supervisor's
    handler in the child, which then never ends.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return process


def leave_signals_to_supervisor() -> None:
    """Ignore in this child what a terminal sends to all, and end on the supervisor's SIGTERM."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
