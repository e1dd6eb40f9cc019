"""Datasets that are rows of features: scikit-learn's two moons, and CSV files of the user's own."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from training.data.dataset import Dataset
from training.errors import TrainingError


def moons(split: str) -> Dataset:
    """Generate 1,000 noisy points, float32 [N, 2], on two interlocking half circles; test points differ."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(n_samples=1000, noise=0.2, random_state=0 if split == "train" else 1)
    return Dataset(
        "moons", split, torch.from_numpy(points).float(), torch.from_numpy(labels).long(), ("upper", "lower")
    )


def table(split: str, path: Path, label: str | None) -> Dataset:
    """A CSV file with a header: numbers in every column but `label`, or else the last, which names the class.

    Every fifth row of each class is for testing.

    Raises:
        TrainingError: there is no such file or column, a feature is not a number, or there are fewer than two classes.
    """
    header, rows = _read(path)
    column = header.index(label) if label in header else len(header) - 1
    if label is not None and label not in header:
        raise TrainingError(f"the label must be a column of {path}: {', '.join(header)}. Given: {label}")
    named = [row.pop(column).strip() for row in rows]
    classes = tuple(sorted(set(named), key=lambda name: (len(name), name) if name.isdigit() else (99, name)))
    if len(classes) < 2 or len(header) < 2:
        raise TrainingError(
            f"{path} must have a column of two or more classes and one or more of numbers. "
            f"Given: {len(classes)} classes in the column {header[column]}"
        )
    try:
        features = torch.tensor([[float(value) for value in row] for row in rows])
    except ValueError as error:
        raise TrainingError(f"{path} must have numbers beside the column {header[column]}. Given: {error}") from error
    labels = torch.tensor([classes.index(name) for name in named])
    return Dataset(path.stem, "train", features, labels, classes).every_fifth(split)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} must be a CSV file with a header. Given: {error}") from error
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise TrainingError(
                f"{path} must have {len(header)} columns in every row. Given: {len(row)} in row {number}"
            )
    return header, rows
