"""Datasets that are rows of features: scikit-learn's two moons, and CSV files of the user's own."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch

from training.data.classes import classes_of, expect_name
from training.data.dataset import Dataset
from training.errors import OptionError


def moons(split: str) -> Dataset:
    """Generate 1,000 noisy points, float32 [N, 2], on two interlocking half circles; test points differ."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(n_samples=1000, noise=0.2, random_state=0 if split == "train" else 1)
    return Dataset(
        "moons", split, torch.from_numpy(points).float(), torch.from_numpy(labels).long(), ("upper", "lower")
    )


def table(split: str, path: Path, label: str | None) -> Dataset:
    """Read a CSV file with a header: numbers in every column but `label`, or else the last, which names the class.

    Every fifth row of each class is for testing.

    Raises:
        OptionError: there is no such file or column, a feature is not a number, a label is missing, or the classes will
            not do.
    """
    expect_name(path.stem, "the name of the file")
    header, rows = _read(path)
    column = header.index(label) if label in header else len(header) - 1
    if label is not None and label not in header:
        raise OptionError(f"the label must be a column of {path}: {', '.join(header)}. Given: {label}")
    if label is not None and (named := header.count(label)) > 1:
        raise OptionError(f"the label must be one column of {path}. Given: {label}, as {named} are called")
    for name in header:
        expect_name(name, f"the name of a column in {path}")
    features, labels = [], []
    for number, row in rows:
        *values, name = row[:column] + row[column + 1 :] + [row[column].strip()]
        if name.lower() in _MISSING:
            raise OptionError(f"{path} must have a label in every row. Given: {name!r} in row {number}")
        features.append([_number(text, path, number, header[column]) for text in values])
        labels.append(name)
    kind = f"two or more rows of the column {header[column]}"
    classes = classes_of(labels, where=path, kind=kind)
    index = {name: place for place, name in enumerate(classes)}
    inputs, places = torch.tensor(features), torch.tensor([index[name] for name in labels])
    names = tuple(header[:column] + header[column + 1 :])
    return Dataset(path.stem, "train", inputs, places, classes, columns=names).every_fifth(split)


_MISSING = ("", "nan", "na", "n/a", "null", "none")
"""Labels that stand for none, as tables are exported."""


def _number(text: str, path: Path, row: int, label: str) -> float:
    try:
        number = math.nan if "_" in text else float(text)  # Python's own numbers may be written 1_000
    except ValueError:
        number = math.nan
    if not abs(number) <= _LARGEST:  # nor NaN
        raise OptionError(
            f"{path} must have finite numbers beside the column {label}. Given: {text[:40]!r} in row {row}"
        )
    return number


_LARGEST = torch.finfo(torch.float32).max


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the rows that are not empty with the numbers that a spreadsheet shows beside them."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise OptionError(f"{path} must be a CSV file with a header, in UTF-8. Given: {error}") from error
    if len(lines) < 2:
        raise OptionError(
            f"{path} must be a CSV file with a header and rows. Given: {'a header alone' if lines else 'nothing'}"
        )
    (_, header), *rows = lines
    if len(header) < 2:
        raise OptionError(
            f"{path} must have a column of classes and one or more of numbers, separated by commas. "
            f"Given: {header[0][:40]!r} alone"
        )
    for number, row in rows:
        if len(row) != len(header):
            raise OptionError(f"{path} must have {len(header)} columns in every row. Given: {len(row)} in row {number}")
    return header, rows
