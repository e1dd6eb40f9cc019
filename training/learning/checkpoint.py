"""The checkpoint of a run: everything that the next epoch depends on, replaced whole when an epoch ends.

Knows nothing about the training loop; it saves and restores parts with a state_dict.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import torch

from training import tensor_files
from training.errors import TrainingError
from training.learning.distributed import World
from training.learning.run_lock import alone

Epoch = TypeVar("Epoch")

CHECKPOINT = "checkpoint.pt"
LOCK = "checkpoint.lock"


class Stateful(Protocol):
    """A network, an optimiser or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Checkpoints:
    """A run's checkpoint in `folder`, which belongs to this run alone, and inside the block to this process.

    Args:
        folder: where the checkpoint lies; it is made when the first one is written.
        seconds: how old the last one must be before an epoch's end replaces it.
        resume: whether `restore` looks for one.
        world: the processes that train together. Only the first reads and writes, because they may share no disk.
    """

    def __init__(self, folder: Path, *, seconds: float = 0.0, resume: bool = False, world: World | None = None) -> None:
        self.file = folder / CHECKPOINT
        self._seconds, self._resume, self._world = seconds, resume, world or World()
        self._saved = time.monotonic()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Raise TrainingError if another process trains the same run now."""
        self._world.first(self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _hold(self) -> None:
        self._held.enter_context(alone(self.file.with_name(LOCK)))

    def restore(self, parts: Mapping[str, Stateful], epoch: Callable[..., Epoch]) -> list[Epoch]:
        """Restore `parts` from the checkpoint and return its epochs, each made by `epoch`; none without a checkpoint.

        Raises:
            TrainingError: the checkpoint cannot be read, or is of other parts.
        """
        saved = self._world.first(self._read) if self._resume else None
        if saved is None:
            return []
        try:
            for name, part in parts.items():
                part.load_state_dict(saved["parts"][name])
            epochs = [epoch(**each) for each in saved["epochs"]]
            torch.set_rng_state(saved["chance"])
            if "cuda_chance" in saved and torch.cuda.is_available():
                torch.cuda.set_rng_state(saved["cuda_chance"])
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(error) from error
        return epochs

    def _read(self) -> dict[str, Any] | None:
        if not self.file.exists():
            return None
        try:
            saved: dict[str, Any] = tensor_files.read(self.file)
        except tensor_files.NotTensorsError as error:
            raise self._unreadable(ValueError(f"a file of {error}")) from error
        except (OSError, RuntimeError, ValueError) as error:
            raise self._unreadable(error) from error
        return saved

    def _unreadable(self, error: BaseException) -> TrainingError:
        return TrainingError(
            f"the checkpoint {self.file} must be one that this run has written. Given: {_first_line(error)}. "
            "Remove it, or leave --resume out, to begin again."
        )

    def save(self, parts: Mapping[str, Stateful], epochs: Sequence[dict[str, Any]], *, last: bool) -> None:
        """Replace the checkpoint if it is old enough or this was the last epoch.

        Raises:
            TrainingError: it cannot be written; the one before it is still whole.
        """
        if not self._world.leads or (not last and time.monotonic() - self._saved < self._seconds):
            return
        state = {
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "epochs": list(epochs),
            "chance": torch.get_rng_state(),
            **({"cuda_chance": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
        }
        beside = self.file.with_suffix(".new")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # else a crash of the machine could leave the new name on old bytes
            beside.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch.save turns some of the former into the latter
            beside.unlink(missing_ok=True)
            kept = " The checkpoint before it is whole: --resume goes on from there." if self.file.exists() else ""
            raise TrainingError(
                f"the checkpoint must be writable to {self.file.parent}. Given: {_first_line(error)}. Make room there, "
                f"or name another folder with --runs-dir.{kept}"
            ) from error
        self._saved = time.monotonic()


def _first_line(error: BaseException) -> str:
    if isinstance(error.__context__, OSError):  # what torch's writer met, and then said in words of its own
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
