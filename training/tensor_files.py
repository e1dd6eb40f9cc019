"""Files of tensors, as torch.save writes them. Knows nothing about what the tensors are for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


class NotTensorsError(ValueError):
    """A file that holds something else than tensors, or nothing."""


def read(file: Path) -> Any:
    """Return what a file of tensors holds, on the CPU; no code in it is run.

    Raises:
        NotTensorsError: it holds something else.
        OSError, RuntimeError, ValueError: it cannot be read.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (LookupError, EOFError, pickle.UnpicklingError) as error:
        # Without torch's own words, which advise to load it with weights_only=False and run what is in it.
        raise NotTensorsError("something else than tensors") from error
