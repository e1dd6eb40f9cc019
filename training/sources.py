"""Where datasets come from: torchvision's files and scikit-learn's bundled digits, as `Dataset` values.

Knows nothing about training. torchvision and scikit-learn are imported when a dataset is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from training.data import Dataset
from training.errors import OptionError, TrainingError

logger = logging.getLogger(__name__)

TEN_DIGITS = tuple("0123456789")


def load(name: str, split: str, data_dir: Path) -> Dataset:
    """The split, "train" or "test", of the dataset `name`, on the CPU.

    Raises:
        OptionError: there is no such dataset.
        TrainingError: its files are neither in `data_dir` nor to be had.
    """
    if name not in SOURCES:
        raise OptionError(f"data must be one of {', '.join(SOURCES)}. Given: {name!r}")
    return SOURCES[name](split, data_dir)


def mnist(split: str, data_dir: Path) -> Dataset:
    """MNIST, 60,000 and 10,000 images, uint8 [N, 1, 28, 28], in their official order."""
    from torchvision.datasets import MNIST

    train = split == "train"
    try:
        files = MNIST(data_dir, train=train, download=False)
    except RuntimeError:  # not there
        files = _download(MNIST, data_dir, train=train)
    except (OSError, ValueError, AssertionError, TypeError) as error:
        raise TrainingError(
            f"the files in {data_dir / 'MNIST' / 'raw'} must be MNIST as published, unpacked. "
            f"Given: files that do not parse ({error}). Remove them to have them downloaded again."
        ) from error
    return Dataset("mnist", split, files.data.unsqueeze(1), files.targets, TEN_DIGITS)


def _download(source: Callable[..., object], data_dir: Path, *, train: bool) -> Any:
    raw = data_dir / "MNIST" / "raw"
    logger.info("no MNIST files in %s: downloading them", raw)
    try:
        return source(data_dir, train=train, download=True)
    except (RuntimeError, URLError, OSError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise TrainingError(
            f"MNIST must be in {raw} or downloadable. Given: no files there, and the download failed ({reason}). "
            "Either pass --data-dir PATH, the folder with MNIST/raw/train-images-idx3-ubyte and the other three raw "
            "files, or go online and run this again; --data digits needs neither."
        ) from error


def digits(split: str, data_dir: Path) -> Dataset:  # noqa: ARG001 - a source like the others; it is bundled
    """scikit-learn's 1,797 real digits of 8x8, drawn as MNIST is: white on black, 20x20 in the middle of 28x28.

    Every fifth example of each class is for testing, whatever the version of scikit-learn.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    labels = torch.from_numpy(bundled.target).long()
    chosen = _every_fifth_of_each_class(labels)
    chosen = chosen if split == "test" else ~chosen
    small = torch.from_numpy(bundled.images).float()[chosen].unsqueeze(1) * (255 / 16)
    drawn = pad(interpolate(small, size=(20, 20), mode="bilinear"), (4, 4, 4, 4)).round().to(torch.uint8)
    return Dataset("digits", split, drawn, labels[chosen], TEN_DIGITS)


def _every_fifth_of_each_class(labels: Tensor) -> Tensor:  # int64 [N] -> bool [N]
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    for label in torch.unique(labels):
        chosen[(labels == label).nonzero().flatten()[::5]] = True
    return chosen


SOURCES: dict[str, Callable[[str, Path], Dataset]] = {"mnist": mnist, "digits": digits}
