"""SIGTERM and Ctrl-C in the service's processes: the supervisor decides, its children follow."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        previous = {number: signal.signal(number, self._count) for number in STOP_SIGNALS}
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
    """Ignore Ctrl-C in this child, which receives it too, and end on the supervisor's SIGTERM."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
