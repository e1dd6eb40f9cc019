"""Logs for TensorBoard: `tensorboard --logdir runs`. Knows nothing about the training loop.

Best effort: a run whose curves cannot be written, because a disk is full, has not failed.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from training.data.dataset import Dataset
from training.learning.progress import Epoch, Progress

logger = logging.getLogger(__name__)

IMAGES = 16
"""Training images that are shown."""


@dataclass(frozen=True)
class Details:
    """The network and data of a run, to be logged as images, a graph and histograms. Logging changes none of them."""

    preprocessing: nn.Module
    network: nn.Module
    data: Dataset

    def log_start(self, writer: Any) -> None:
        """Log the first training images and the network's graph."""
        inputs = self.data.inputs[:IMAGES].cpu()
        if self.data.images:
            writer.add_images("train/images", inputs)
        # Of a copy, whose batch norms may see these inputs.
        model = copy.deepcopy(nn.Sequential(self.preprocessing, self.network)).cpu().eval()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # add_graph calls torch.jit.trace, which torch calls deprecated
            writer.add_graph(model, inputs)

    def log_epoch(self, writer: Any, epoch: int) -> None:
        """Log a histogram of each weight."""
        for name, weight in self.network.named_parameters():
            writer.add_histogram(f"weights/{name}", weight.detach().cpu(), epoch)


class BoardProgress:
    """A progress that forwards to another one and logs every epoch for TensorBoard."""

    def __init__(self, shown: Progress, folder: Path, *, resume: bool = False, details: Details | None = None) -> None:
        """Log to `folder`, replacing what was logged there, except the epochs before a resumed one."""
        self._shown, self._folder, self._resume, self._details = shown, folder, resume, details
        self._writer: Any = None
        self._fails = False

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        if self._writer is None and not self._fails:
            with self._logging():
                self._writer = self._open(epoch)
                if self._details is not None:
                    self._details.log_start(self._writer)
        self._number, self._started = epoch, time.perf_counter()
        self._shown.start_epoch(epoch, epochs, iterations)

    def due(self) -> bool:
        return self._shown.due()

    def show(self, loss: float, accuracy: float, *, examples: int) -> None:
        self._shown.show(loss, accuracy, examples=examples)

    def end_epoch(self, epoch: Epoch) -> None:
        speed = epoch.examples / (time.perf_counter() - self._started)
        values = {"loss": epoch.loss, "accuracy": epoch.accuracy, "examples_per_second": speed, **epoch.rates}
        if not self._fails:
            with self._logging():
                for name, value in values.items():
                    self._writer.add_scalar(f"train/{name}", value, self._number)
                for name, value in epoch.validation._asdict().items() if epoch.validation is not None else ():
                    self._writer.add_scalar(f"validation/{name}", value, self._number)
                if self._details is not None:
                    self._details.log_epoch(self._writer, self._number)
                self._writer.flush()
        self._shown.end_epoch(epoch)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Log no more after the first error inside such a block."""
        try:
            yield
        except OSError as error:
            self._fails = True
            _tell(self._folder, error)

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
            with contextlib.suppress(OSError):  # that was told before
                self._writer.close()


def log_measurements(folder: Path, measured: Mapping[str, float], *, epoch: int) -> None:
    """Log what was measured after `epoch`, the last one, e.g. {"test/accuracy": 0.9}."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        with SummaryWriter(str(folder)) as writer:
            for name, value in measured.items():
                writer.add_scalar(name, value, epoch)
    except OSError as error:
        _tell(folder, error)


def _tell(folder: Path, error: OSError) -> None:
    logger.warning("TensorBoard will not show all of this run: nothing can be written to %s: %s", folder, error)
