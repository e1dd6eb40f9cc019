"""The file of results that `classify` writes: rows that survive an interruption, CSV or Parquet.

Rows are always written as CSV, since a file of Parquet is nothing before its end; Parquet is made of them at the end.
"""

from __future__ import annotations

import csv
import fcntl
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from service.client.answers import Answer, PredictionError

_FLUSH_ROWS = 64


class Row(NamedTuple):
    """A file and what it shows, by which version of which model, or why that is not known.

    `outlier` is true, false, or empty where the version cannot tell; a blank picture is one without a label.
    """

    path: str
    class_id: str
    label: str
    probability: str
    outlier: str
    model: str
    version: str
    error: str


class ResultsError(Exception):
    """The file of results cannot be written or gone on with."""


class Results:
    """Results under way: what `path` has already, and what is added. Use it in a `with`.

    Raises:
        ResultsError: it holds something else, another process writes it, or Parquet is asked for without pyarrow.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_parquet = path.suffix == ".parquet"
        if self._is_parquet and importlib.util.find_spec("pyarrow") is None:
            raise ResultsError(
                f"a .parquet file needs pyarrow: pip install argmax[parquet], or write .csv. Given: {path} without it"
            )
        self._rows_path = path.with_name(f"{path.name}.rows.csv") if self._is_parquet else path
        if self._rows_path.exists() and not self._rows_path.is_file():
            raise ResultsError(f"--out must be a file, or new. Given: {self._rows_path}, which is neither")
        self._file = open(self._rows_path, "a+b")  # noqa: SIM115, PTH123 - closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.models: set[str] = set()  # that answered
            self.versions: set[str] = set()
            self.done, self.failed = self._read_back()
        except BlockingIOError as error:
            self._file.close()
            raise ResultsError(f"one process at a time may write {path}. Given: another that does") from error
        except ResultsError:
            self._file.close()
            raise
        self._unflushed = 0

    def add(self, path: str, answer: Answer) -> None:
        """Write the row of one file."""
        if isinstance(answer, PredictionError):
            row = Row(path, "", "", "", "", "", "", answer.detail)
            self.failed += 1
        else:
            if self.models and answer.model not in self.models:
                raise ResultsError(
                    f"{self._path} must be given answers of the model that it has, {', '.join(self.models)}. "
                    f"Given: one of {answer.model}. Write a new file, or name the model with --model"
                )
            self.models.add(answer.model)
            said = _text(answer.class_id), answer.label or "", _probability(answer.probability)
            row = Row(path, *said, _text(answer.outlier), answer.model, str(answer.version), "")
        self._write(row)
        self._unflushed += 1
        if self._unflushed >= _FLUSH_ROWS:
            self._file.flush()
            self._unflushed = 0

    def expect(self, model: str | None, version: str | None) -> None:
        """Raise ResultsError if the rows that are there are of another model, or of another version by number."""
        for asked, there, what in ((model, self.models, "model"), (version, self.versions, "version")):
            if asked is not None and there - {asked} and (what == "model" or asked.isdecimal()):
                raise ResultsError(
                    f"--{what} must be {', '.join(sorted(there))}, whose answers {self._path} has already. "
                    f"Given: {asked}. Write another file with --out"
                )

    def files(self) -> list[Path]:
        """Return those of its own files that are there."""
        return [file for file in {self._path, self._rows_path} if file.exists()]

    def finish(self) -> None:
        """Call it when every file has its row."""
        self._file.flush()
        if self._is_parquet:
            partial = self._path.with_name(f"{self._path.name}.partial")
            _to_parquet(self._rows_path, partial)
            partial.replace(self._path)
            self._rows_path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read_back(self) -> tuple[set[str], int]:
        """Return the paths that have a row, and how many of the rows are errors; a row that was cut off is removed."""
        self._file.seek(0)
        rows, end, failed = set(), 0, 0
        for row, position in _whole_rows(self._file):
            if end == 0 and row != list(Row._fields):
                raise ResultsError(
                    f"{self._rows_path} must be new, or hold the columns {','.join(Row._fields)}. "
                    f"Given: a file that begins with {','.join(row)[:60]!r}"
                )
            if end:
                entry = Row(*row)
                rows.add(entry.path)
                failed += self._count(entry)
            end = position
        if end == 0 and os.fstat(self._file.fileno()).st_size > len(",".join(Row._fields)):
            raise ResultsError(f"{self._rows_path} must be new, or hold results. Given: a file without a whole line")
        self._file.truncate(end)
        if end == 0:
            self._write(Row(*Row._fields))
            if self._is_parquet and self._path.exists():
                for entry in _from_parquet(self._path):
                    self._write(entry)
                    rows.add(entry.path)
                    failed += self._count(entry)
        return rows, failed

    def _count(self, row: Row) -> bool:
        """Remember which model and version answered; return whether the row is an error."""
        if row.model:
            self.models.add(row.model)
            self.versions.add(row.version)
        return bool(row.error)

    def _write(self, row: Row) -> None:
        line = ",".join(_quoted(entry) for entry in row) + "\n"
        # A file's name may be bytes that are no UTF-8; it comes back as it was.
        self._file.write(line.encode("utf-8", "surrogateescape"))


def _text(value: int | bool | None) -> str:
    return "" if value is None else str(value).lower()


def _probability(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _whole_rows(file: Any) -> Iterator[tuple[list[str], int]]:
    """Return each row that is whole, and where in the file it ends: a name may hold line breaks, in quotes."""
    pending, position = b"", 0
    for line in file:
        pending += line
        if pending.endswith(b"\n") and pending.count(b'"') % 2 == 0:
            position += len(pending)
            text = pending.decode("utf-8", "surrogateescape")
            row = next(csv.reader([text[:-1]]), [])
            if len(row) == len(Row._fields) or position == len(pending):
                yield row, position
            pending = b""


def _to_parquet(rows: Path, path: Path) -> None:
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {"class_id": pyarrow.int32(), "probability": pyarrow.float64(), "version": pyarrow.int32()}
    kinds["outlier"] = pyarrow.bool_()
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in Row._fields])
    with rows.open("rb") as file, parquet.ParquetWriter(path, schema) as writer:
        block: list[dict[str, Any]] = []
        entries = _whole_rows(file)
        next(entries)
        for row, _ in entries:
            block.append(_typed(Row(*row)))
            if len(block) == 10_000:
                writer.write_table(pyarrow.Table.from_pylist(block, schema))
                block = []
        writer.write_table(pyarrow.Table.from_pylist(block, schema))


def _from_parquet(path: Path) -> Iterator[Row]:
    parquet = importlib.import_module("pyarrow.parquet")
    file = parquet.ParquetFile(path)
    if file.schema_arrow.names != list(Row._fields):
        names = ",".join(file.schema_arrow.names)
        raise ResultsError(f"{path} must be new, or hold the columns {','.join(Row._fields)}. Given: {names}")
    for block in file.iter_batches():
        for entry in block.to_pylist():
            yield Row(*("" if entry[name] is None else str(entry[name]) for name in Row._fields))._replace(
                probability=_probability(entry["probability"]), outlier=_text(entry["outlier"])
            )


def _typed(row: Row) -> dict[str, Any]:
    path = row.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if row.error:
        return {**dict.fromkeys(Row._fields), "path": path, "error": row.error}
    known = {
        "class_id": int(row.class_id) if row.class_id else None,
        "label": row.label if row.class_id else None,
        "probability": float(row.probability) if row.probability else None,
        "outlier": row.outlier == "true" if row.outlier else None,
        "version": int(row.version),
    }
    return {**row._asdict(), "path": path, **known, "error": None}
