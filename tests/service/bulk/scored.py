"""Collections to score with a model of two lines, and what came out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset

from service.bulk import local
from service.bulk.run import Engine, Result, Work, finish, prepare
from service.contract.registry import Registry
from service.settings import Settings
from tests.pictures import row_png

NOTHING: Callable[[int], None] = lambda images: None  # noqa: E731

ERROR = "the image must be one of PNG, JPEG, WebP, GIF, BMP. Given: 8 bytes that look like text"

FEW_PER_SHARD = 10


@functools.cache
def digit(class_id: int) -> bytes:
    return row_png(class_id)


def content(number: int) -> bytes:
    """A picture of the class `number` modulo 10; each 25th is none."""
    return digit(number % 10) if number % 25 else b"nonsense"


def write_images(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"{number // 20:02d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return folder


def planned(source: Path | str, out: Path | str, registry: Path, **settings: Any) -> Work:
    shard_size = settings.pop("shard_size", FEW_PER_SHARD)
    chosen = Settings(registry=str(registry), **settings)
    manifest = Registry(registry).manifest("rows", 1)
    return prepare(str(source), str(out), manifest, chosen, shard_size=shard_size)


def score(source: Path | str, out: Path | str, registry: Path, engine: Engine = local.score, **settings: Any) -> Result:
    return finish(planned(source, out, registry, **settings), engine, NOTHING)


def rows_of(out: Path | str) -> list[dict[str, Any]]:
    """The rows of all parts, in order."""
    paths = sorted(str(path) for path in Path(out).glob("part-*.parquet"))
    return [row for path in paths for row in pyarrow.dataset.dataset(path).to_table().to_pylist()]


def parts_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


def expect_every_image_once(out: Path, count: int) -> None:
    found = rows_of(out)

    assert [Path(row["path"]).stem for row in found] == [f"{number:05d}" for number in range(count)]
    for number, row in enumerate(found):
        expected = (number % 10, None) if number % 25 else (None, ERROR)
        assert (row["class_id"], row["error"]) == expected
    assert (out / "_SUCCESS").exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
