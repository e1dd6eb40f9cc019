"""Progress of training: bars on a terminal, one line an epoch elsewhere. Knows nothing about torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:  # it imports torch
    from training.learning.validation import Validation

REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class Epoch:
    """The numbers of an epoch of training, when it ends."""

    loss: float  # the mean over its examples, like the accuracy
    accuracy: float
    examples: int
    validation: Validation | None = None
    rates: Mapping[str, float] = field(default_factory=dict)  # the learning rates with which it began


class Progress(Protocol):
    """A listener of the trainer. `show` is called only when `due`, because reading the numbers waits for the device."""

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None: ...

    def due(self) -> bool:
        """Return whether to show numbers now; called after every iteration."""
        ...

    def show(self, loss: float, accuracy: float, *, examples: int) -> None: ...

    def end_epoch(self, epoch: Epoch) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_progress(stream: TextIO, *, log_every: int = 0) -> Progress:
    """Return bars if `stream` is a terminal and no line every `log_every` iterations is wanted, else lines."""
    bars = stream.isatty() and not log_every
    return BarProgress(Console(file=stream)) if bars else LineProgress(stream, log_every=log_every)


class NoProgress:
    """A silent progress, for all but one of several processes that train together."""

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None: ...

    def due(self) -> bool:
        return False

    def show(self, loss: float, accuracy: float, *, examples: int) -> None: ...

    def end_epoch(self, epoch: Epoch) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class LineProgress(NoProgress):
    """One line of plain text when an epoch ends, and every `log_every` iterations: the means since its beginning."""

    def __init__(self, stream: TextIO, *, log_every: int = 0) -> None:
        self._stream = stream
        self._log_every = log_every

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        self._title = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
        self._iterations, self._iteration = iterations, 0
        self._started = time.perf_counter()

    def due(self) -> bool:
        self._iteration += 1
        return bool(self._log_every) and self._iteration % self._log_every == 0

    def show(self, loss: float, accuracy: float, *, examples: int) -> None:
        self._line(f"iteration {self._iteration:,}/{self._iterations:,}", loss, accuracy, examples)

    def end_epoch(self, epoch: Epoch) -> None:
        if epoch.validation is None:
            self._line(f"{self._iterations:,} iterations", epoch.loss, epoch.accuracy, epoch.examples)
            return
        validation = f"validation {epoch.validation.loss:.4f} {epoch.validation.accuracy:7.2%}"
        # Of the same line, without what would make it longer than 80 columns.
        self._write(f"{_numbers(epoch.loss, epoch.accuracy)}  {validation}")

    def _line(self, where: str, loss: float, accuracy: float, examples: int) -> None:
        speed = examples / (time.perf_counter() - self._started)
        self._write(f"{where}  {_numbers(loss, accuracy)}  {speed:,.0f}/s")

    def _write(self, text: str) -> None:
        seconds = time.perf_counter() - self._started
        self._stream.write(f"{self._title}  {text}  {seconds:.{int(seconds < 100)}f} s\n")
        self._stream.flush()


class BarProgress:
    """Two bars as wide as the terminal lets them be: the epochs of the run, and the iterations of the epoch."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]:<29}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # no thread beside the two that compute
            expand=True,
        )
        self._run = self._bars.add_task("epoch", numbers="time left of the run")
        self._epoch = self._bars.add_task("iteration", numbers="")

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        self._iterations, self._iteration, self._before = iterations, 0, epoch - 1
        self._started = self._shown = time.perf_counter()
        self._bars.update(self._run, total=epochs, completed=self._before)
        self._bars.reset(self._epoch, total=iterations)

    def due(self) -> bool:
        self._iteration += 1
        return time.perf_counter() - self._shown > REFRESH_SECONDS

    def show(self, loss: float, accuracy: float, *, examples: int) -> None:
        del examples
        self._shown = time.perf_counter()
        self._bars.update(self._run, completed=round(self._before + self._iteration / self._iterations, 2))
        self._bars.update(self._epoch, completed=self._iteration, numbers=_numbers(loss, accuracy))
        self._bars.refresh()

    def end_epoch(self, epoch: Epoch) -> None:
        if epoch.validation is not None:
            numbers = f"validation {epoch.validation.loss:.4f} {epoch.validation.accuracy:8.2%}"
            self._bars.update(self._run, numbers=numbers)
        self.show(epoch.loss, epoch.accuracy, examples=epoch.examples)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def _numbers(loss: float, accuracy: float) -> str:
    return f"loss {loss:.4f}  accuracy {accuracy:7.2%}"
