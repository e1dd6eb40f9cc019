"""The progress of a long command: a bar on a terminal if rich is installed, else a line now and then."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_LINE_SECONDS = 5.0


@contextlib.contextmanager
def showing(stream: TextIO, total: int, done: int) -> Iterator[Callable[[], None]]:
    """A function to call when one more of `total` is done; `done` were before."""
    if stream.isatty() and importlib.util.find_spec("rich") is not None:
        with _bar(stream, total, done) as advance:
            yield advance
    else:
        yield _Lines(stream, total, done)


class _Lines:
    """A line of plain text every few seconds."""

    def __init__(self, stream: TextIO, total: int, done: int) -> None:
        self._stream = stream
        self._total = total
        self._done = self._before = done
        self._started = self._said = time.monotonic()

    def __call__(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            rate = (self._done - self._before) / (now - self._started)
            self._stream.write(f"{self._done:,} of {self._total:,} files, {rate:,.0f} files/s\n")
            self._stream.flush()


@contextlib.contextmanager
def _bar(stream: TextIO, total: int, done: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files, time left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task("files", total=total, completed=done)
        yield lambda: progress.advance(task)
