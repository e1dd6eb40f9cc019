"""The sources of datasets: load a `Dataset` by name, folder:PATH or csv:PATH.

Knows nothing about training. torchvision and scikit-learn are imported by the datasets alone that cannot do without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from service.contract.manifest import Fit, Style
from training.data import downloads, pictures, tables
from training.data.cache import NO_CACHE, Cache
from training.data.dataset import Dataset
from training.errors import OptionError

logger = logging.getLogger(__name__)

INK = ("mnist", "kmnist", "digits")
"""Datasets of light ink on black, which the style "mnist" does not change."""

OWN = ("folder:PATH", "csv:PATH[:LABEL]")
"""How the user's own data is named, for help and errors."""


def is_own(name: str) -> bool:
    """Return whether `name` is data of the user's own, not a published dataset."""
    return name.partition(":")[0] in ("folder", "csv") and ":" in name


def file_and_label(path: str) -> tuple[Path, str | None]:
    """Return the file in `path`, PATH or PATH:LABEL, and the column of the label if it names one."""
    file, _, label = ("", "", path) if Path(path).exists() else path.rpartition(":")
    return (Path(file), label) if file else (Path(path), None)


def load(
    name: str,
    split: str,
    data_dir: Path,
    *,
    style: Style = "photo",
    fit: Fit = "stretch",
    size: int = 0,
    cache: Cache = NO_CACHE,
) -> Dataset:
    """Load a split of the dataset `name`, on the CPU: "train" and "test", with cifar10 also "holdout" and "test-jpeg".

    Pictures become inputs by `style` and `fit`, which the dataset keeps, so that they are served in the same way. Of
    the published datasets only those of ink can have the style "mnist", and none another `size` than its own.

    Raises:
        OptionError: there is no such dataset.
        TrainingError: its files are neither in `data_dir` nor to be had, or are not what they must be.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        title, root = f"folder/{split}/{style}/{fit}/{size}", Path(path)
        files = pictures.files_of(root)
        if split == "train" and (others := pictures.passed_over(root)):
            logger.warning(
                "passed over in %s: %s. What is learnt from lies in its class's folder and ends in %s",
                *(root, others, " ".join(sorted(pictures.SUFFIXES))),
            )
        return cache.get(title, files, lambda: pictures.folder(split, root, style=style, fit=fit, size=size))
    if size:
        raise OptionError(f"size must be given with data of the kind folder:PATH. Given: {size} with {name}")
    if kind == "csv" and path:
        return tables.table(split, *file_and_label(path))
    if name not in SOURCES:
        raise OptionError(f"data must be one of {', '.join([*SOURCES, *OWN])}. Given: {name!r}")
    found = downloads.cifar10(split, data_dir, cache) if name == "cifar10" else SOURCES[name](split, data_dir)
    return replace(found, style=style if name in INK else "photo", fit=fit)


def digits(split: str, data_dir: Path) -> Dataset:  # noqa: ARG001 - a source like the others; it is bundled
    """scikit-learn's 1,797 real digits of 8x8, drawn as MNIST is: white on black, 20x20 in the middle of 28x28.

    Every fifth example of each class is for testing, whatever the version of scikit-learn.
    """
    rows = torch.from_numpy(np.loadtxt(_in_scikit_learn("datasets/data/digits.csv.gz"), np.float32, delimiter=","))
    small = rows[:, :-1].view(-1, 1, 8, 8) * (255 / 16)
    drawn = pad(interpolate(small, size=(20, 20), mode="bilinear"), (4, 4, 4, 4)).round().to(torch.uint8)
    return Dataset("digits", "train", drawn, rows[:, -1].long(), downloads.TEN_DIGITS).every_fifth(split)


def _in_scikit_learn(file: str) -> Path:
    """Find a file that comes with scikit-learn without importing it, which takes a second.

    Raises:
        OptionError: it is not installed.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise OptionError(
            "scikit-learn must be installed, which brings the digits (the extra `training`). Given: it is not"
        )
    return Path(package.origin).parent / file


SOURCES: dict[str, Callable[[str, Path], Dataset]] = {
    "mnist": downloads.mnist,
    "digits": digits,
    "fashion_mnist": downloads.fashion_mnist,
    "kmnist": downloads.kmnist,
    "cifar10": downloads.cifar10,
    "cifar100": downloads.cifar100,
    "moons": lambda split, _: tables.moons(split),
}
