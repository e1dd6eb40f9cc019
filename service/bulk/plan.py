"""The plan of a collection: which images, in which shards, by which version, under which limits.

    <destination>/_plan/plan.json                    the description, written last and once
    <destination>/_plan/<folder>/entries-00000.parquet   the entries of 128 shards; a row group is a shard

A plan is bound to its destination: parts of two plans never lie side by side. Knows nothing about decoding or Ray.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import pyarrow
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bulk.destination import PLAN, Destination
from service.bulk.sources import Entry, Kind, Source
from service.contract.manifest import ModelManifest
from service.counting import counted

SHARD_SIZE = 8192
_SHARDS_PER_FILE = 128
_DESCRIPTION = "plan.json"
_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("path", pyarrow.binary(), nullable=False),
        pyarrow.field("row_group", pyarrow.int32(), nullable=False),
        pyarrow.field("rows", pyarrow.int64(), nullable=False),
    ]
)


class PlanError(Exception):
    """A plan that cannot be made, or is not the one that the destination was begun with."""


class Terms(BaseModel):
    """Everything that decides the rows, besides the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    kind: Kind
    manifest: ModelManifest
    form: Literal["fastest", "published"]
    max_batch_size: int = Field(ge=1)
    max_pixels: int = Field(ge=1)
    max_file_bytes: int = Field(ge=1)
    shard_size: int = Field(SHARD_SIZE, ge=1)

    def difference(self, other: Self) -> str:
        """Return in words where two differ first: "the version 4, not 5"; empty if nowhere."""
        if self.manifest != other.manifest:
            return f"{_version(self.manifest)}, not {_version(other.manifest)}"
        for name in type(self).model_fields:
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)}, not {getattr(other, name)}"
        return ""


class Plan(BaseModel):
    """The description of a plan; its entries lie beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    terms: Terms
    images: int
    shards: int
    sha256: str = Field(description="Of the terms and every entry, in order.")
    folder: str

    def entries(self, destination: Destination, shard: int) -> list[Entry]:
        """Return what a shard consists of."""
        number, row_group = divmod(shard, _SHARDS_PER_FILE)
        with destination.open("rb", PLAN, self.folder, _entries_name(number)) as file:
            columns = parquet.ParquetFile(file).read_row_group(row_group).to_pydict()
        return list(itertools.starmap(Entry, zip(*(columns[name] for name in _SCHEMA.names), strict=True)))


def agree(destination: Destination, source: Source, terms: Terms) -> Plan:
    """Return the destination's plan: the one that it was begun with, or a new one.

    Either way the source is listed in full, because a collection that has changed is another plan.

    Raises:
        PlanError: the destination was begun with another plan, or the source is empty.
        SourceError: the source cannot be listed.
    """
    found = _read(destination)
    if found is None:
        return _write(destination, source, terms)
    _expect_same(destination, found, terms)
    now = _Counted(terms)
    for entries in _shards(source.entries(), terms.shard_size):
        now.add(entries)
    if now.sha256 != found.sha256:
        raise PlanError(
            f"SOURCE must hold what {destination.url} was begun with, {counted(found.images, 'image')}. "
            f"Given: {counted(now.images, 'image')}, or others. Name another --out"
        )
    return found


class _Counted:
    """The size and the digest of a plan whose entries pass by."""

    def __init__(self, terms: Terms) -> None:
        self._digest = hashlib.sha256(terms.model_dump_json().encode())
        self.images = self.shards = 0

    def add(self, entries: list[Entry]) -> None:
        self._digest.update(b"".join(b"%b\0%d\0%d\n" % entry for entry in entries))
        self.images += sum(entry.rows for entry in entries)
        self.shards += 1

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _write(destination: Destination, source: Source, terms: Terms) -> Plan:
    folder = uuid.uuid4().hex  # of this process's own: another may be planning too
    planned = _Counted(terms)
    shards = _shards(source.entries(), terms.shard_size)
    for number in itertools.count():
        some = itertools.islice(shards, _SHARDS_PER_FILE)
        first = next(some, None)
        if first is None:
            break
        with (
            destination.open("wb", PLAN, folder, _entries_name(number)) as file,
            parquet.ParquetWriter(file, _SCHEMA, compression="zstd") as writer,
        ):
            for entries in itertools.chain([first], some):
                planned.add(entries)
                writer.write_table(_table(entries), row_group_size=len(entries))
    if not planned.images:
        raise PlanError(f"SOURCE must hold images. Given: none in {source.url}")
    plan = Plan(terms=terms, images=planned.images, shards=planned.shards, sha256=planned.sha256, folder=folder)
    if destination.claim(plan.model_dump_json(indent=1).encode(), PLAN, _DESCRIPTION):
        return plan
    destination.remove(PLAN, folder)
    return agree(destination, source, terms)  # another process was first


def _read(destination: Destination) -> Plan | None:
    data = destination.read(PLAN, _DESCRIPTION)
    if data is None:
        if destination.parts():
            raise PlanError(f"--out must be new, or begun by this command. Given: {destination.url}, which has parts")
        return None
    try:
        return Plan.model_validate_json(data)
    except ValidationError as error:
        raise PlanError(
            f"{destination.url}/{PLAN}/{_DESCRIPTION} must be a whole plan. Given: {len(data)} bytes that are none. "
            "Name another --out"
        ) from error


def _expect_same(destination: Destination, found: Plan, terms: Terms) -> None:
    if difference := found.terms.difference(terms):
        raise PlanError(f"{destination.url} was begun with {difference}. Give the same, or name another --out")


def _shards(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Group entries into shards of up to `size` images; a row group is not divided, however large it is."""
    shard: list[Entry] = []
    images = 0
    for entry in entries:
        if shard and images + entry.rows > size:
            yield shard
            shard, images = [], 0
        shard.append(entry)
        images += entry.rows
    if shard:
        yield shard


def _table(entries: list[Entry]) -> Any:
    columns = zip(*entries, strict=True)
    return pyarrow.table(
        [pyarrow.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA
    )


def _entries_name(number: int) -> str:
    return f"entries-{number:05d}.parquet"


def _version(manifest: ModelManifest) -> str:
    return f"{manifest.name}@{manifest.version} ({manifest.artifact.sha256[:12]})"
