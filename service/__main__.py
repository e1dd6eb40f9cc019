"""The command line: `python -m service [COMMAND]`, where no command is `serve`."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from service.commands import COMMANDS

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM; a container's first process would not hear the signal without a handler


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"error: the command must be one of {known}. Given: {name}. See: python -m service --help", file=sys.stderr
        )
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name or a label may not fit the terminal
    # Imported where needed: `health` runs every few seconds in a container, and `predict` has no use for torch.
    try:
        with _ended_by_sigterm():
            try:
                command = importlib.import_module(f"service.commands.{name}")
                code: int = command.main(arguments)
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        _discard_output()
        return 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _discard_output()
        print(f"error: the output must have room. Given: {error.strerror}", file=sys.stderr)
        return 1
    return code


def _discard_output() -> None:
    """Have the interpreter's last flush succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Unwind on SIGTERM; only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # `serve` leaves it ignored
            signal.signal(signal.SIGTERM, before)


def _open_standard_streams() -> None:
    """Open the null device where whoever started this closed a standard stream.

    Otherwise a socket takes its number, and is written to by whatever writes to that stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
