"""The output of commands: rows under a heading, and errors. Bold and red only on a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from service.commands.environment import wants_colour
from service.counting import counted

_SHOWN_ENDINGS = 5

_BOLD, _RED, _PLAIN = "\033[1m", "\033[31m", "\033[0m"


def bold(text: str, stream: TextIO) -> str:
    return f"{_BOLD}{text}{_PLAIN}" if wants_colour(stream) else text


def red(text: str, stream: TextIO) -> str:
    return f"{_RED}{text}{_PLAIN}" if wants_colour(stream) else text


def fail(reason: object) -> int:
    """Say why a command cannot go on; return the exit code."""
    print(f"{red('error:', sys.stderr)} {reason}", file=sys.stderr)
    return 1


def without_room(out: object, error: OSError) -> str:
    """Return what to say of an error while results were written, which names no file."""
    return f"{out} must take what is written. Given: {error.strerror or error}. The same command goes on"


def say_passed_over(endings: Counter[str]) -> None:
    """Say how many files were passed over by their names, and how these end."""
    if endings:
        print(f"passed over {counted(endings.total(), 'file')}: {passed_over(endings)}", file=sys.stderr)


def passed_over(endings: Counter[str]) -> str:
    """Return the most frequent endings with their numbers: "12 .heic, 3 .avif and 2 others"."""
    shown = ", ".join(f"{number:,} {ending}" for ending, number in endings.most_common(_SHOWN_ENDINGS))
    others = endings.total() - sum(number for _, number in endings.most_common(_SHOWN_ENDINGS))
    return f"{shown} and {counted(others, 'other')}" if others else shown


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under bold headings, in columns as wide as their widest entry; a line break in a name is shown as one."""
    rows = [[_printable(entry) for entry in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(bold(_line(header, widths), sys.stdout))
    for row in rows:
        print(_line(row, widths))


def _printable(text: str) -> str:
    """Return a text with its control characters as escapes: a file's name may hold those of a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip()
