"""SIGTERM, Ctrl-C and SIGHUP in the service's processes: the supervisor decides, its children follow."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP too, which a terminal sends to all when it is closed. There is nothing to reload: files are watched."""

END = signal.SIGUSR1
"""With this the supervisor ends its children; terminals, systemd and `kill -- -PGID` send the others to all of them."""

_CHILDS = (*STOP_SIGNALS, END)


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
        previous = {number: signal.signal(number, self._count) for number in _heard()}
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


def end_at_once(clean_up: Callable[[], None] = lambda: None) -> None:
    """End this process with 0 on a stop signal, while it has neither children nor requests.

    An exception would not do: one that is raised in the middle of an import is sometimes swallowed or printed there.
    """

    def end(*_: object) -> None:
        clean_up()
        os._exit(0)

    for number in _heard():
        signal.signal(number, end)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """End this process with 0 on a stop signal inside the block."""
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    end_at_once()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore the stop signals, also while the interpreter ends, which would restore what they do by default."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _heard() -> list[signal.Signals]:
    # nohup starts a program with SIGHUP ignored, and so it stays.
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def start_child(process: BaseProcess) -> BaseProcess:
    """Start a child with the stop signals blocked until it calls `leave_signals_to_supervisor`.

    Otherwise Ctrl-C ends a worker that is still importing, and a SIGTERM right after the fork runs the supervisor's
    handler in the child.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _CHILDS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CHILDS)
    return process


def end_child(process: BaseProcess) -> None:
    """Ask a child to end."""
    if process.is_alive() and process.pid:  # until it is waited for, which that does, its id is nobody else's
        os.kill(process.pid, END)


def leave_signals_to_supervisor() -> None:
    """Ignore in this child what others may send to all, and end when the supervisor says so."""
    signal.set_wakeup_fd(-1)
    ignore()
    signal.signal(END, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CHILDS)
