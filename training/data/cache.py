"""Decoded datasets kept as tensors, so that later runs need not decode the same pictures again.

Knows nothing about formats of pictures. A cache never fails a run: what cannot be read is decoded again, and what
cannot be written is a log line.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.dataset import Dataset

logger = logging.getLogger(__name__)

FORMAT = 2
"""Part of every key; raise it when pictures are decoded differently or entries are laid out differently."""


@dataclass(frozen=True)
class Cache:
    """A folder of decoded datasets, one file each."""

    folder: Path | None  # None caches nothing

    def get(self, title: str, files: Iterable[Path], decode: Callable[[], Dataset]) -> Dataset:
        """Return the dataset decoded from `files`, from the cache if it holds it.

        Args:
            title: which dataset and split, e.g. "cifar10/train".
            files: all files that the dataset is decoded from. An entry belongs to their paths, sizes and times of
                modification: reading 50,000 pictures to hash them would take as long as decoding some sets.
            decode: reads the files.
        """
        if self.folder is None:
            return decode()
        try:
            folder = self.folder.expanduser()
        except RuntimeError as error:  # nobody's home
            logger.info("nothing is cached: %s", error)
            return decode()
        files = sorted(files)
        source = _digest(title, *(str(file.absolute().parent) for file in files[:1]))[:8]
        stem = f"{re.sub(r'[^a-z0-9]+', '-', title.lower())}-{source}"
        key = _digest(FORMAT, *((str(file.absolute()), *_size_and_time(file)) for file in files))[:16]
        file = folder / f"{stem}-{key}.pt"
        found = _read(file)
        if found is not None:
            return found
        decoded = decode()
        try:
            _write(file, decoded)
            for old in folder.glob(f"{stem}-*.pt"):
                if old != file:
                    old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # torch.save turns some of the former into the latter
            logger.info("%s is not cached in %s: %s", title, folder, str(error).partition("\n")[0])
        return decoded


NO_CACHE = Cache(None)


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:  # a link to nowhere; whoever decodes it will say so
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read(file: Path) -> Dataset | None:
    """Return the dataset in `file`, or None if there is none or its tensors do not have their digest."""
    try:
        if not file.exists():
            return None
        entry = torch.load(file, weights_only=True)
        tensors = entry["inputs"], entry["labels"]
        prepared = {"style": entry["style"], "fit": entry["fit"]}
        data = Dataset(entry["name"], entry["split"], *tensors, tuple(entry["classes"]), **prepared)
        if data.digest != entry["digest"]:
            raise ValueError("its tensors do not have the digest that it names")
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        logger.info("%s is decoded again: %s", file, str(error).partition("\n")[0])
        return None
    return data


def _write(file: Path, data: Dataset) -> None:
    entry = {
        "name": data.name,
        "split": data.split,
        "inputs": data.inputs,
        "labels": data.labels,
        "classes": list(data.classes),
        "style": data.style,
        "fit": data.fit,
        "digest": data.digest,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two runs may write the same entry at once.
    descriptor, beside = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as opened:
            torch.save(entry, opened)
        Path(beside).replace(file)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
