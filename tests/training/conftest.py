"""What the tests of the training half share: real digits that need no network, and hyper-parameters for a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.training import quickly
from training.data import sources
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.device import cpu_threads
from training.learning.progress import Epoch
from training.publishing import report


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    with cpu_threads(1):  # what is small is no faster with more, and the tests may share the machine
        yield


@pytest.fixture(autouse=True)
def runs_elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINING_RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
    monkeypatch.setenv("TRAINING_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def brief_measurements() -> Iterator[None]:
    """Also for what is trained once for a module."""
    with pytest.MonkeyPatch.context() as patch:
        quickly.hasten(patch.setattr)
        yield


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish pictures that need not be drawn, which takes a second; test_report.py looks at real ones."""
    for name in ("learning_curve", "confusion_matrix", "worst_mistakes"):
        monkeypatch.setattr(report, name, lambda *_: b"\x89PNG")


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return sources.load("digits", "train", Path())


@pytest.fixture(scope="session")
def digits_test() -> Dataset:
    return sources.load("digits", "test", Path())


@pytest.fixture
def quick() -> HyperParameters:
    return HyperParameters(epochs=2, batch_size=64, optimiser="adam", lr=0.01)


class Silent:
    """A progress that shows nothing, but may ask for the numbers after every step."""

    def __init__(self, *, always_due: bool = False) -> None:
        self.always_due = always_due
        self.iterations: list[int] = []
        self.shown: list[tuple[float, float, int]] = []

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        self.iterations.append(0)

    def due(self) -> bool:
        self.iterations[-1] += 1
        return self.always_due

    def show(self, loss: float, accuracy: float, *, examples: int) -> None:
        self.shown.append((loss, accuracy, examples))

    def end_epoch(self, epoch: Epoch) -> None:
        self.shown.append((epoch.loss, epoch.accuracy, epoch.examples))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return
