"""The progress of a long command: a bar on a terminal if rich is installed, else a line now and then."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import time
from collections.abc import Iterator
from typing import Protocol, TextIO

from service.counting import counted

_LINE_SECONDS = 5.0


class Advance(Protocol):
    """A function to call when `count` more are done."""

    def __call__(self, count: int = 1, /) -> None: ...


@contextlib.contextmanager
def showing(stream: TextIO, total: int, done: int, thing: str = "file") -> Iterator[Advance]:
    """Yield a function to call when one more of `total`, or several, are done; `done` were before."""
    if stream.isatty() and importlib.util.find_spec("rich") is not None:
        with _bar(stream, total, done, thing) as advance:
            yield advance
    else:
        yield _Lines(stream, total, done, thing)


class _Lines:
    """A line of plain text every few seconds."""

    def __init__(self, stream: TextIO, total: int, done: int, thing: str) -> None:
        self._stream = stream
        self._total = total
        self._thing = thing
        self._done = self._before = done
        self._started = self._said = time.monotonic()

    def __call__(self, count: int = 1, /) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            rate = (self._done - self._before) / (now - self._started)
            left = datetime.timedelta(seconds=round(max(0, self._total - self._done) / rate)) if rate else "unknown"
            done = f"{self._done:,} of {counted(self._total, self._thing)}"
            self._stream.write(f"{done}, {counted(round(rate), self._thing)}/s, time left {left}\n")
            self._stream.flush()


@contextlib.contextmanager
def _bar(stream: TextIO, total: int, done: int, thing: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    things = f"{thing}s"
    with Progress(*columns, console=Console(file=stream), speed_estimate_period=120) as progress:
        task = progress.add_task(things, total=total, completed=done, rate=things)
        started, added = time.monotonic(), 0

        def advance(count: int = 1, /) -> None:
            nonlocal added
            added += count
            rate = f"{things}, {counted(round(added / max(time.monotonic() - started, 1e-9)), thing)}/s,"
            progress.update(task, advance=count, rate=rate)

        yield advance
