"""Periodic runs of each served model's golden sample, so that "ready" means it can infer.

Knows nothing about requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from service.model.model import DeviceFailedError, Model, UnfitModelError


class UnsoundWorkerError(Exception):
    """The worker computes wrongly or not at all, and must be replaced by a new process."""


class OnSelfTest(Protocol):
    """Is called with the result of a golden sample."""

    def __call__(self, model: str, version: int, *, ok: bool) -> None: ...


def ignore(model: str, version: int, *, ok: bool) -> None:
    """Do nothing with the result."""
    del model, version, ok


class SelfTests:
    """The golden samples of a worker's models, each of them run every `seconds`; loading a model ran it first."""

    def __init__(self, seconds: float, on_result: OnSelfTest = ignore) -> None:
        self._seconds = seconds
        self._on_result = on_result
        self._due: dict[Model, float] = {}

    def follow(self, models: Iterable[Model]) -> None:
        """Test exactly `models` from now on."""
        due = time.monotonic() + self._seconds
        before, self._due = self._due, {model: self._due.get(model, due) for model in models}
        for model in self._due.keys() - before.keys():
            self._tell(model, ok=True)

    def run_one(self) -> None:
        """Run the golden sample that is most overdue, if any: one at a time, so that no batch waits for all of them.

        Raises:
            UnsoundWorkerError: it came out wrong, or not at all.
        """
        model = min(self._due, key=lambda model: self._due[model], default=None)
        if model is None or self._due[model] > time.monotonic():
            return
        try:
            model.prove()
        except (UnfitModelError, DeviceFailedError) as error:
            self._tell(model, ok=False)
            raise UnsoundWorkerError(f"{model} has passed before and must pass again. Given: {error}") from error
        self._due[model] = time.monotonic() + self._seconds
        self._tell(model, ok=True)

    def _tell(self, model: Model, *, ok: bool) -> None:
        self._on_result(model.manifest.name, model.manifest.version, ok=ok)
