"""Datasets that are picture files, one folder for each class, in a directory or in zips.

Pictures become inputs by the service's own function, so that what is learnt is what will be served. Knows nothing about
which datasets there are.
"""

from __future__ import annotations

import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from service.contract.manifest import Fit, ImageInput, Style
from service.images import decode as images
from service.problems import Problem
from training.data.classes import classes_of, expect_name, listed
from training.data.dataset import Dataset
from training.errors import OptionError, TrainingError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
MORE_FORMATS = ("PPM", "TIFF")
"""What can be learnt from, besides the formats that are served."""
MAX_PIXELS = 64_000_000
LARGEST = 64
"""Pictures of one size up to this many pixels a side are taken as they are."""
SIDE = 32
"""What others become."""
INK_SIDE = 28
"""The same for pictures of ink, which become like MNIST's."""

_SHOWN_ENDINGS = 8

R = TypeVar("R")
T = TypeVar("T")


def folder(split: str, path: Path, *, style: Style = "photo", fit: Fit = "stretch", size: int = 0) -> Dataset:
    """Read a torchvision ImageFolder of the user: `path`/train/CLASS/* and `path`/test/CLASS/*, or `path`/CLASS/*.

    Without train and test, every fifth picture of each class, by name, is for testing. Pictures become `size` x `size`;
    with 0 they keep their size when all have one of at most 64 x 64, else they become 32 x 32 (28 x 28 for the style
    "mnist"). They are grey when all are grey or the style is "mnist", else colour.

    Raises:
        OptionError: there is no such folder, its classes will not do, or a file is no picture.
    """
    name = path.resolve().name or "folder"
    expect_name(name, "the name of the folder")
    split_up = _is_split(path)
    found = _found(path / "train" if split_up else path)
    classes = classes_of(
        [name for name, _ in found], where=path, kind="a folder of pictures (or all in train/ and test/)"
    )
    spec = _input_of([picture for _, picture in found], style, fit, size)
    if not split_up:
        return _dataset(name, split, _fifths(found, split), classes, spec)
    if split == "train":
        return _dataset(name, "train", found, classes, spec)
    tested = _found(path / "test")
    unknown = {name for name, _ in tested} - set(classes)
    if unknown or not tested:
        raise OptionError(
            f"{path / 'test'} must have the classes of train. Given: {', '.join(sorted(unknown)) or 'none'}"
        )
    return _dataset(name, "test", tested, classes, spec)


def files_of(path: Path) -> list[Path]:
    """Return the pictures that `folder` would read in `path`, sorted by class and name.

    Raises:
        OptionError: `path` is no folder that can be read, or a folder of it has no pictures.
    """
    roots = (path / "train", path / "test") if _is_split(path) else (path,)
    learnt_from, *tested_on = map(_files, roots)
    if learnt_from:
        _expect_pictures(roots[0], {file.parent.name for file in learnt_from})
    return [*learnt_from, *(file for files in tested_on for file in files)]


def passed_over(path: Path) -> str:
    """Return what `folder` would pass over in `path`, but for hidden files: "12 .heic, 3 in further folders", or ''.

    Raises:
        OptionError: `path` is no folder that can be read.
    """
    roots = (path / "train", path / "test") if _is_split(path) else (path,)
    found: Counter[str] = Counter()
    for root in roots:
        read = set(_files(root))
        for inside in (file for folder in _folders(root) for file in folder.iterdir() if _is_shown(file)):
            if inside.is_dir():
                found["in further folders"] += sum(file.is_file() for file in inside.rglob("*"))
            elif inside not in read:
                found[inside.suffix.lower() or "without an ending"] += 1
        beside = (file for file in root.iterdir() if _is_shown(file) and file.suffix.lower() in SUFFIXES)
        found["beside the folders"] += sum(file.is_file() for file in beside)
    return ", ".join(f"{number:,} {what}" for what, number in found.most_common(_SHOWN_ENDINGS) if number)


def _is_split(path: Path) -> bool:
    return (path / "train").is_dir() and (path / "test").is_dir()


def _fifths(found: list[tuple[str, Picture]], split: str) -> list[tuple[str, Picture]]:
    """Return every fifth picture of each class for the split "test", else the others."""
    places: Counter[str] = Counter()
    chosen = []
    for name, picture in found:
        if (places[name] % 5 == 0) == (split == "test"):
            chosen.append((name, picture))
        places[name] += 1
    return chosen


def there(split: str, path: Path) -> bool:
    """Return whether `official` would find `split` in `path`."""
    return (path / split).is_dir() or any(path.glob(f"{split}*.zip"))


def official(name: str, split: str, path: Path) -> Dataset:
    """Read a published dataset as pictures CLASS/NUMBER.png under `path`/`split`, or in zips `path`/`split`*.zip.

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
    spec = _input_of([picture for _, picture in found], "photo", "stretch")
    return _dataset(name, split, found, tuple(sorted({name for name, _ in found})), spec)


class Picture:
    """A file that is not decoded yet."""

    def __init__(self, name: str, content: bytes | Path) -> None:
        self.name = name
        self._content = content

    def describe(self) -> images.Description:
        """Return its size and whether it is grey, from its header.

        Raises:
            OptionError: it is no picture.
        """
        return self._read(partial(images.describe, more_formats=MORE_FORMATS))

    def decode(self, spec: ImageInput) -> bytes:
        """Return it as the service would give it to a model with that input.

        Raises:
            OptionError: it is no picture.
        """
        return self._read(partial(images.decode, spec=spec, max_pixels=MAX_PIXELS, more_formats=MORE_FORMATS))

    def _read(self, read: Callable[[bytes], R]) -> R:
        try:
            return read(self._content if isinstance(self._content, bytes) else _bytes_of(self._content))
        except OSError as error:
            raise OptionError(f"{self.name} must be a picture that can be read. Given: {error}") from error
        except Problem as problem:
            raise OptionError(f"{self.name} must be a picture: {problem.detail}") from problem


def _bytes_of(file: Path) -> bytes:
    if not file.is_file() and file.exists():  # a pipe would be waited for without end
        raise OSError("something else than a file")
    return file.read_bytes()


def _found(path: Path) -> list[tuple[str, Picture]]:
    return [(file.parent.name, Picture(str(file), file)) for file in _files(path)]


def _files(path: Path) -> list[Path]:
    """Return the pictures in the folders of `path`; what is hidden, such as .git and ._1.png, is none.

    Raises:
        OptionError: `path` is no folder that can be read.
    """
    try:
        files = [file for folder in _folders(path) for file in sorted(folder.iterdir()) if _is_shown(file)]
    except OSError as error:
        raise OptionError(f"{path} must be a folder of folders that can be read. Given: {error}") from error
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.is_dir()]


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if _is_shown(folder) and folder.is_dir())


def _expect_pictures(path: Path, classes: Collection[str]) -> None:
    """Raise OptionError if a folder beside those of `classes` has no pictures: a class would be missing unnoticed."""
    empty = [folder for folder in _folders(path) if folder.name not in classes]
    if empty:
        held = Counter(inside.suffix.lower() or "folders" for inside in empty[0].iterdir() if _is_shown(inside))
        found = f"{listed(held)} instead" if held else "nothing"
        raise OptionError(
            f"each folder in {path} must be a class and hold its pictures itself: {', '.join(sorted(SUFFIXES))}. "
            f"Given: {listed(folder.name for folder in empty)} without any; {empty[0].name} holds {found}. "
            "Move what is no class elsewhere"
        )


LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found")
"""Folders that archives, storage and file systems make beside those of the user."""


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in LEFT_BEHIND


def _zipped(file: Path) -> list[tuple[str, Picture]]:
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{file} must be a zip that can be read. Given: {error}") from error
    with archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES]
        return [(PurePosixPath(name).parent.name, Picture(name, archive.read(name))) for name in names]


def _input_of(pictures: list[Picture], style: Style, fit: Fit, side: int = 0) -> ImageInput:
    """Return the input that suits all pictures, by what their headers say; `side` decides its size if it is not 0."""
    described = _all(Picture.describe, pictures)
    size = (side, side) if side else _only((picture.height, picture.width) for picture in described)
    if size is None or (max(size) > LARGEST and not side):
        size = (INK_SIDE, INK_SIDE) if style == "mnist" else (SIDE, SIDE)
    grey = style == "mnist" or all(picture.grey for picture in described)
    colour: Literal["grey", "rgb"] = "grey" if grey else "rgb"
    return ImageInput(shape=(1 if grey else 3, *size), colour=colour, style=style, fit=fit)


def _dataset(
    name: str, split: str, found: list[tuple[str, Picture]], classes: tuple[str, ...], spec: ImageInput
) -> Dataset:
    labels = torch.tensor([classes.index(of) for of, _ in found])
    decoded = b"".join(_all(lambda picture: picture.decode(spec), [picture for _, picture in found]))
    return Dataset(name, split, _tensor(decoded, spec), labels, classes, spec.style, spec.fit)


def _all(work: Callable[[Picture], R], pictures: list[Picture]) -> list[R]:
    """Return what the work gives for each picture; decoding lets go of the interpreter."""
    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
        warnings.simplefilter("ignore")  # Pillow's, on metadata and on large photos of the user's own
        return list(threads.map(work, pictures, chunksize=64))


def _tensor(decoded: bytes, spec: ImageInput) -> Tensor:  # uint8 [N, C, H, W]
    return torch.from_numpy(np.frombuffer(bytearray(decoded), np.uint8)).view(-1, *spec.shape)


def _only(values: Iterable[T]) -> T | None:
    """Return the value that all have, else None."""
    different = set(values)
    return different.pop() if len(different) == 1 else None
