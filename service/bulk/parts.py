"""The rows of a shard as Parquet, under one schema. Knows nothing about models or stores."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from service.contract.manifest import ModelManifest
from service.model.outputs import Outputs

SCHEMA = pyarrow.schema(
    [
        pyarrow.field("path", pyarrow.string(), nullable=False),
        pyarrow.field("class_id", pyarrow.int32()),
        pyarrow.field("label", pyarrow.string()),
        pyarrow.field("probability", pyarrow.float32()),
        pyarrow.field("outlier", pyarrow.float32()),
        pyarrow.field("model", pyarrow.string(), nullable=False),
        pyarrow.field("version", pyarrow.int32(), nullable=False),
        pyarrow.field("digest", pyarrow.string(), nullable=False),
        pyarrow.field("error", pyarrow.string()),
    ]
)
"""A row has a class or an error, and the other is null. `digest` is the artifact's sha256."""

FAILED = "the model must compute the image. Given: one that it fails on"


class Rows:
    """The rows of one shard, in the order in which they are added."""

    def __init__(self, manifest: ModelManifest) -> None:
        self._manifest = manifest
        self._labels = np.array(manifest.classes, dtype=object)
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("path", "class_id", "label", "probability", "outlier", "error")
        }
        self.errors = 0

    def __len__(self) -> int:
        return len(self._columns["path"])

    def add(self, paths: list[str], errors: list[str | None], outputs: Outputs | None) -> None:
        """Add a batch: `outputs` are of the images without an error, in order."""
        good = np.array([error is None for error in errors], bool)
        found = dict.fromkeys(("class_id", "label", "probability", "outlier"), np.full(len(paths), None, object))
        reasons: list[str | None] = list(errors)
        if outputs is not None:
            computed = outputs.class_ids >= 0
            places = np.flatnonzero(good)[computed]
            ids = outputs.class_ids[computed]
            found = {name: column.copy() for name, column in found.items()}
            found["class_id"][places] = ids
            found["label"][places] = self._labels[ids]
            found["probability"][places] = outputs.confidences[computed]
            if (scores := outlier_scores(outputs)) is not None:
                found["outlier"][places] = scores[computed]
            for place in np.flatnonzero(good)[~computed]:
                reasons[place] = FAILED
        for name, column in found.items():
            self._columns[name].extend(column)
        self._columns["path"].extend(paths)
        self._columns["error"].extend(reasons)
        self.errors += sum(reason is not None for reason in reasons)

    def to_parquet(self) -> bytes:
        """Return the file; equal rows give equal bytes."""
        size = len(self)
        same = {
            "model": self._manifest.name,
            "version": self._manifest.version,
            "digest": self._manifest.artifact.sha256,
        }
        columns = {**self._columns, **{name: [value] * size for name, value in same.items()}}
        table = pyarrow.table({field.name: pyarrow.array(columns[field.name], field.type) for field in SCHEMA}, SCHEMA)
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def outlier_scores(outputs: Outputs) -> Any:
    """Return how unlike the training data each image of a batch is, float32 [N]; None for a model that does not say."""
    return outputs.scores if len(outputs.scores) else None
