"""A lister, which turns the files below a registry's root into the listing of each model.

It remembers the small files of a bucket, so that a look costs one request when nothing changed. Knows nothing about
what a version's files contain, or how they are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from service.contract.listing import ALIASES, PRODUCTION, Listings, ModelListing, VersionFiles
from service.contract.manifest import MOST_VERSIONS, Name
from service.contract.store import (
    Contents,
    CorruptVersionError,
    Entry,
    NotInRegistryError,
    Parts,
    Store,
    UnreadableError,
)

ARTIFACT = "model.pt"
MANIFEST = "manifest.json"
HISTORY = "history"
CLAIM = ".claim"
NAME: TypeAdapter[str] = TypeAdapter(Name)
FAULT_LENGTH = 1000

_ALIAS_BYTES = 32
_HISTORY_BYTES = 2**20


class Lister:
    """The listings of the models in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._small: dict[Parts, tuple[str, bytes]] = {}  # aliases and histories, with the tags that they had

    def look(self) -> Listings:
        """Return what is there of every model, from one listing and the aliases that changed since the last look."""
        return self._listings(self._store.contents(is_relevant=_is_relevant))

    def models(self) -> list[str]:
        """Return the names of the models that have at least one version, sorted."""
        contents = self._store.contents(is_relevant=_is_relevant)
        return sorted({path[0] for path in contents.files if _version_of(path)})

    def versions(self, model: str) -> list[int]:
        """Return the versions of `model`, oldest first."""
        return sorted(filter(None, map(_version_of, self._contents(model).files)))

    def claimed(self, model: str) -> list[int]:
        """Return the numbers that have a folder, with a version in it or only claimed, in their order."""
        names = {path[1] for path in self._contents(model).folders if len(path) > 1}
        return sorted(filter(None, map(_number, names)))

    def listing(self, model: str) -> ModelListing:
        """Return what is there of `model`."""
        return self._listings(self._contents(model)).get(model, ModelListing())

    def _contents(self, model: str) -> Contents:
        if not is_name(model):
            return Contents({}, set(), {})
        return self._store.contents(model, is_relevant=_is_relevant)

    def _listings(self, contents: Contents) -> Listings:
        """Sort what was listed by models; a folder without versions and faults is none."""
        files: defaultdict[str, dict[Parts, Entry]] = defaultdict(dict)
        faults: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for path, entry in contents.files.items():
            files[path[0]][path] = entry
        for path, reason in contents.faults.items():
            faults[path[0]]["/".join(path[1:])] = _fault(path, reason)
        found = {
            model: self._model_listing(model, files[model], faults[model]) for model in files.keys() | faults.keys()
        }
        self._small = {path: small for path, small in self._small.items() if path in contents.files}
        return {model: found[model] for model in sorted(found) if found[model].versions or found[model].faults}

    def _model_listing(self, model: str, files: dict[Parts, Entry], faults: dict[str, str]) -> ModelListing:
        versions: dict[int, VersionFiles] = {}
        for path, manifest in files.items():
            if version := _version_of(path):
                artifact = files.get((model, path[1], ARTIFACT))
                versions[version] = VersionFiles(
                    manifest_bytes=manifest.size,
                    manifest_tag=manifest.tag,
                    artifact_bytes=artifact.size if artifact else None,
                    artifact_tag=artifact.tag if artifact else "",
                )
            elif len(path) == 3 and path[2] == MANIFEST:
                faults[path[1]] = _fault(path[:2], f"a version must be a whole number from 1 to {MOST_VERSIONS}")
        aliases: dict[str, int] = {}
        promoted: tuple[int, ...] | None = None
        for path, entry in files.items():
            try:
                if path[1:2] == (ALIASES,) and len(path) == 3:
                    aliases[path[2]] = self._read_alias(path, entry, versions)
                elif path[1:] == (HISTORY, PRODUCTION):
                    promoted = self._read_history(path, entry)
            except NotInRegistryError:
                continue  # removed since it was listed
            except (CorruptVersionError, UnreadableError) as error:
                faults["/".join(path[1:])] = _fault(path, str(error))
        return ModelListing(versions=dict(sorted(versions.items())), aliases=aliases, promoted=promoted, faults=faults)

    def _read_alias(self, path: Parts, entry: Entry, versions: Mapping[int, object]) -> int:
        text = self._read_small(path, entry, _ALIAS_BYTES).strip()
        if not text.isdigit():
            raise CorruptVersionError(f"an alias must hold a version number. Given: {text[:40]!r}")
        if int(text) not in versions:
            raise CorruptVersionError(f"an alias must hold the number of a version that is there. Given: {int(text)}")
        return int(text)

    def _read_history(self, path: Parts, entry: Entry) -> tuple[int, ...]:
        lines = self._read_small(path, entry, _HISTORY_BYTES).split()
        return tuple(int(line) for line in lines if line.isdigit() and len(line) <= _ALIAS_BYTES)

    def _read_small(self, path: Parts, entry: Entry, most_bytes: int) -> bytes:
        """Read a file of a few bytes, of a bucket only if it is another than the last time."""
        if entry.size > most_bytes:
            raise CorruptVersionError(f"it must have at most {most_bytes} bytes. Given: {entry.size}")
        known = self._small.get(path)
        if known and known[0] == entry.tag and entry.tag and not self._store.is_folder:
            return known[1]
        data = self._store.read(*path, most_bytes=most_bytes)[:most_bytes]
        self._small[path] = entry.tag, data
        return data


def _is_relevant(path: Parts) -> bool:
    """Return whether the registry reads a path, or what is below it."""
    if len(path) == 1:
        return is_name(path[0])
    folder, file = path[1], path[2] if len(path) == 3 else None
    if folder == ALIASES:
        return file is None or is_name(file)
    if folder == HISTORY:
        return file in (None, PRODUCTION)
    return folder.isascii() and folder.isdecimal() and file in (None, MANIFEST, ARTIFACT, CLAIM)


def _version_of(path: Parts) -> int | None:
    """Return the version whose manifest a path is, if it is one's."""
    return _number(path[1]) if len(path) == 3 and path[2] == MANIFEST else None


def _number(text: str) -> int | None:
    """Return the number of a version's folder: 1 and up, written as `str` does."""
    if text.isascii() and text.isdecimal() and not text.startswith("0") and len(text) <= len(str(MOST_VERSIONS)):
        return int(text)
    return None


def _fault(path: Parts, reason: str) -> str:
    return f"{'/'.join(path)}: {reason}"[:FAULT_LENGTH]


def is_name(text: str) -> bool:
    """Return whether `text` may name a model or an alias."""
    try:
        NAME.validate_python(text)
    except ValidationError:
        return False
    return True
