"""The output of commands: rows under a heading, and errors. Bold and red only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from service.commands.environment import wants_colour

_BOLD, _RED, _PLAIN = "\033[1m", "\033[31m", "\033[0m"


def bold(text: str, stream: TextIO) -> str:
    return f"{_BOLD}{text}{_PLAIN}" if wants_colour(stream) else text


def red(text: str, stream: TextIO) -> str:
    return f"{_RED}{text}{_PLAIN}" if wants_colour(stream) else text


def fail(reason: object) -> int:
    """Say why a command cannot go on; return the exit code."""
    print(f"{red('error:', sys.stderr)} {reason}", file=sys.stderr)
    return 1


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under bold headings, in columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(bold(_line(header, widths), sys.stdout))
    for row in rows:
        print(_line(row, widths))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip()
