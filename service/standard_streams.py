"""The standard streams of a command, which may be closed, full or cut off. Knows nothing about commands."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable


def run(command: Callable[[], int]) -> int:
    """Return the exit code of `command`, or 1 if its output could not be written."""
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a class or a file may not fit the terminal
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        _discard_output()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _discard_output()
        sys.stderr.write(f"error: the output must have room. Given: {error.strerror}\n")
    return 1


def _discard_output() -> None:
    """Send what is still buffered nowhere, which Python writes when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed() -> None:
    """Open the null device where whoever started this closed a standard stream.

    Otherwise a file or a socket takes its number, and is written to by whatever writes to that stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
