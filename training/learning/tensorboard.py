"""Logs for TensorBoard: `tensorboard --logdir runs`. Knows nothing about the training loop."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.learning.progress import Progress


class BoardProgress:
    """A progress that forwards to another one and logs every epoch for TensorBoard."""

    def __init__(self, shown: Progress, folder: Path, *, resume: bool = False) -> None:
        """Log to `folder`, replacing what was logged there, except the epochs before a resumed one."""
        self._shown, self._folder, self._resume = shown, folder, resume
        self._writer: Any = None

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        self._epoch, self._started = epoch, time.perf_counter()
        if self._writer is None:
            self._writer = self._open(epoch)
        self._shown.start_epoch(epoch, epochs, iterations)

    def due(self) -> bool:
        return self._shown.due()

    def show(self, loss: float, accuracy: float, *, examples: int) -> None:
        self._shown.show(loss, accuracy, examples=examples)

    def end_epoch(self, loss: float, accuracy: float, *, examples: int) -> None:
        speed = examples / (time.perf_counter() - self._started)
        for name, value in (("loss", loss), ("accuracy", accuracy), ("examples_per_second", speed)):
            self._writer.add_scalar(f"train/{name}", value, self._epoch)
        self._writer.flush()
        self._shown.end_epoch(loss, accuracy, examples=examples)

    def _open(self, epoch: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # 0.4 s

        if not self._resume:
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
        return SummaryWriter(str(self._folder), purge_step=epoch)

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)
        if self._writer is not None:
            self._writer.close()
