"""The published datasets that torchvision knows, in their official order, downloaded if missing.

Knows nothing about other sources. torchvision is imported when it has to download, or to read what is not IDX.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from training.data import idx, pictures
from training.data.cache import NO_CACHE, Cache
from training.data.dataset import Dataset
from training.errors import TrainingError, UnreachableError

logger = logging.getLogger(__name__)

TEN_DIGITS = tuple("0123456789")
CLOTHING = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CHARACTERS = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
HOLDOUT = 0.1


def mnist(split: str, data_dir: Path) -> Dataset:
    """Load MNIST: 60,000 and 10,000 images, uint8 [N, 1, 28, 28]."""
    return _grey("mnist", "MNIST", split, data_dir, TEN_DIGITS)


def fashion_mnist(split: str, data_dir: Path) -> Dataset:
    """Load FashionMNIST: ten kinds of clothing, as many and as large as MNIST."""
    return _grey("fashion_mnist", "FashionMNIST", split, data_dir, CLOTHING)


def kmnist(split: str, data_dir: Path) -> Dataset:
    """Load KMNIST: ten cursive Japanese characters, as many and as large as MNIST."""
    return _grey("kmnist", "KMNIST", split, data_dir, CHARACTERS)


def cifar100(split: str, data_dir: Path) -> Dataset:
    """Load CIFAR-100: 50,000 and 10,000 images, uint8 [N, 3, 32, 32]."""
    return _colour("cifar100", "CIFAR100", split, data_dir)


def cifar10(split: str, data_dir: Path, cache: Cache = NO_CACHE) -> Dataset:
    """CIFAR-10: "train" (45,000), "holdout" (5,000 of the training images), "test" (10,000), "test-jpeg".

    The hold-out is every tenth image of each class in the official order, whichever files they are read from:
    torchvision's, or PNGs and JPEGs in folders or zips under `data_dir`/cifar10, named train... and test-jpeg....
    """
    if split == "test-jpeg":
        return _decoded("cifar10", split, data_dir / "cifar10", cache)
    if split == "test":
        return _colour("cifar10", "CIFAR10", split, data_dir)
    ours = data_dir / "cifar10"
    published = not (data_dir / "cifar-10-batches-py").exists() and pictures.there("train", ours)
    whole = _decoded("cifar10", "train", ours, cache) if published else _colour("cifar10", "CIFAR10", "train", data_dir)
    rest, held_out = whole.hold_out(HOLDOUT)
    return rest if split == "train" else replace(held_out, split="holdout")


def _decoded(name: str, split: str, path: Path, cache: Cache) -> Dataset:
    """Return a published dataset that lies as pictures in `path`."""
    files = (path / split).rglob("*") if (path / split).is_dir() else path.glob(f"{split}*.zip")
    return cache.get(f"{name}/{split}", files, lambda: pictures.official(name, split, path))


def _grey(name: str, source: str, split: str, data_dir: Path, classes: tuple[str, ...]) -> Dataset:
    raw = data_dir / source / "raw"
    if not all((raw / f"{part}-{kind}-ubyte").exists() for part in _PARTS.values() for kind in _KINDS):
        _download(source, raw, data_dir, train=split == "train")
    try:
        images, labels = (idx.read(raw / f"{_PARTS[split]}-{kind}-ubyte") for kind in _KINDS)
        return Dataset(name, split, images.unsqueeze(1), labels.long(), classes)
    except (OSError, ValueError) as error:
        raise _unreadable(source, raw, error) from error


_PARTS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3", "labels-idx1")


def _colour(name: str, source: str, split: str, data_dir: Path) -> Dataset:
    """Load a colour dataset with torchvision, whose folder shows whether it must be downloaded."""
    from torchvision import datasets

    kind = getattr(datasets, source)
    folder, train = data_dir / kind.base_folder, split == "train"
    try:
        files = kind(data_dir, train=train, download=False)
    except RuntimeError:  # not there
        files = _download(source, folder, data_dir, train=train)
    except (OSError, ValueError, AssertionError, TypeError) as error:
        raise _unreadable(source, folder, error) from error
    images = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
    return Dataset(name, split, images, torch.tensor(files.targets), tuple(files.classes))


def _unreadable(source: str, folder: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"the files in {folder} must be {source} as published, unpacked. "
        f"Given: files that do not parse ({error}). Remove them to have them downloaded again."
    )


def _download(source: str, folder: Path, data_dir: Path, *, train: bool) -> Any:
    """Return the dataset `source` of torchvision, e.g. "MNIST", whose files are in `folder` from now on.

    Raises:
        UnreachableError: they cannot be downloaded.
    """
    from torchvision import datasets

    logger.info("no %s files in %s: downloading them", source, folder)
    try:
        return getattr(datasets, source)(data_dir, train=train, download=True)
    except (RuntimeError, URLError, OSError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise UnreachableError(
            f"{source} must be in {folder} or downloadable. Given: no files there, and the download failed ({reason}). "
            f"Either pass --data-dir PATH, the folder with {folder.relative_to(data_dir)} and its files as published, "
            "or go online and run this again; --data digits needs neither."
        ) from error
