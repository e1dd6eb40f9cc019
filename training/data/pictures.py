"""Datasets that are picture files, one folder for each class, in a directory or in zips.

Knows nothing about which datasets there are.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from training.data.dataset import Dataset
from training.errors import TrainingError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
LARGEST = 64
"""Pictures of one size up to this many pixels a side are taken as they are."""
SIDE = 32
"""What others are scaled and cropped to."""

GREY = ("1", "L")

T = TypeVar("T")


def folder(split: str, path: Path) -> Dataset:
    """A torchvision ImageFolder of the user's own: `path`/train/CLASS/* and `path`/test/CLASS/*, or `path`/CLASS/*.

    Without train and test, every fifth picture of each class, by name, is for testing. Pictures stay as they are when
    all have one size of at most 64 x 64, else they become 32 x 32; grey when all are grey, else colour.

    Raises:
        TrainingError: there is no such folder, it has fewer than two classes, or a file is no picture.
    """
    split_up = (path / "train").is_dir() and (path / "test").is_dir()
    found = _found(path / "train" if split_up else path)
    classes = tuple(sorted({name for name, _ in found}))
    if len(classes) < 2:
        raise TrainingError(
            f"{path} must hold a folder of pictures for each of two or more classes, or train/ and test/ with such "
            f"folders. Given: {len(classes)} with pictures."
        )
    both = _dataset(path.name, "train", found, classes)
    if not split_up:
        return both.every_fifth(split)
    if split == "train":
        return both
    tested = _found(path / "test")
    unknown = {name for name, _ in tested} - set(classes)
    if unknown or not tested:
        raise TrainingError(
            f"{path / 'test'} must have the classes of train. Given: {', '.join(sorted(unknown)) or 'none'}"
        )
    return _dataset(path.name, "test", tested, classes, like=both.inputs)


def there(split: str, path: Path) -> bool:
    """Whether `official` would find `split` in `path`."""
    return (path / split).is_dir() or any(path.glob(f"{split}*.zip"))


def official(name: str, split: str, path: Path) -> Dataset:
    """A published dataset as pictures CLASS/NUMBER.png under `path`/`split`, or in zips `path`/`split`*.zip.

    Numbers are the official order, when they do not start again in each class.

    Raises:
        TrainingError: there are none.
    """
    if (path / split).is_dir():
        found = _found(path / split)
    else:
        found = [entry for file in sorted(path.glob(f"{split}*.zip")) for entry in _zipped(file)]
    if not found:
        raise TrainingError(
            f"{name}/{split} must be pictures in {path / split}/CLASS/ or in {path}/{split}*.zip. Given: neither. "
            "Pass --data-dir PATH."
        )
    found.sort(key=lambda entry: (PurePosixPath(entry[1].name).stem, entry[0]))
    return _dataset(name, split, found, tuple(sorted({name for name, _ in found})))


class Picture:
    """A file that is not decoded yet."""

    def __init__(self, name: str, content: bytes | Path) -> None:
        self.name = name
        self._content = content

    def decode(self) -> Image.Image:
        """The picture upright, at most 64 x 64 (else scaled to 32 x 32), grey or RGB."""
        content = io.BytesIO(self._content) if isinstance(self._content, bytes) else self._content
        try:
            with Image.open(content) as opened:
                picture: Image.Image = ImageOps.exif_transpose(opened)
                picture = picture.convert("L" if picture.mode in GREY else "RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise TrainingError(f"{self.name} must be a picture. Given: {error}") from error
        return picture if max(picture.size) <= LARGEST else _fit(picture, (SIDE, SIDE))


def _found(path: Path) -> list[tuple[str, Picture]]:
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in SUFFIXES)
    return [(file.parent.name, Picture(str(file), file)) for file in files]


def _zipped(file: Path) -> list[tuple[str, Picture]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES]
        return [(PurePosixPath(name).parent.name, Picture(name, archive.read(name))) for name in names]


def _dataset(
    name: str, split: str, found: list[tuple[str, Picture]], classes: tuple[str, ...], *, like: Tensor | None = None
) -> Dataset:
    labels = torch.tensor([classes.index(of) for of, _ in found])
    with ThreadPoolExecutor() as threads:  # decoding lets go of the interpreter
        decoded = list(threads.map(lambda picture: picture.decode(), (picture for _, picture in found), chunksize=64))
    return Dataset(name, split, _tensor(decoded, like), labels, classes)


def _tensor(decoded: list[Image.Image], like: Tensor | None) -> Tensor:  # uint8 [N, C, H, W]
    if like is not None:
        mode, size = "L" if like.shape[1] == 1 else "RGB", (like.shape[3], like.shape[2])
    else:
        mode = "L" if _only(picture.mode for picture in decoded) == "L" else "RGB"
        size = _only(picture.size for picture in decoded) or (SIDE, SIDE)
    arrays = [np.asarray(_fit(picture, size).convert(mode)) for picture in decoded]
    return torch.from_numpy(np.stack(arrays)).view(len(arrays), size[1], size[0], -1).permute(0, 3, 1, 2).contiguous()


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.BILINEAR)


def _only(values: Iterable[T]) -> T | None:
    """The value that all have, else None."""
    different = set(values)
    return different.pop() if len(different) == 1 else None
