"""The registry: a folder or a bucket of immutable versions, the only thing between training and service.

    <root>/<model>/<version>/model.pt, manifest.json, ...   a version exists once its manifest does
    <root>/<model>/aliases/<alias>                          holds one version number
    <root>/<model>/history/production                       what was promoted, one version number a line, oldest first
    <root>/<model>/decisions/<version>                      whether whoever trained it promoted it, in words
    <root>/<model>/turns/<number>                           there while somebody changes what is production

Knows nothing about torch or HTTP; what a version's files mean is the manifest's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import fsspec
from pydantic import TypeAdapter, ValidationError

from service.contract.lock import turn
from service.contract.manifest import Artifact, ModelManifest, Name

ARTIFACT = "model.pt"
MANIFEST = "manifest.json"
PRODUCTION = "production"
_CLAIM = ".claim"

_name = TypeAdapter(Name)


class RegistryError(Exception):
    """A registry that cannot give or take what was asked; the message says what was required."""


class NotInRegistryError(RegistryError):
    """No such model, version or alias."""


class CorruptVersionError(RegistryError):
    """A version whose files do not match its manifest, or whose manifest cannot be read."""


class Registry:
    """Read and write versions under `root`, a path or any fsspec URL (`s3://bucket/models`).

    Listings are fresh on every call. Every method raises `RegistryError` (or one of its kinds) when the store cannot be
    read or written.
    """

    def __init__(self, root: str | Path) -> None:
        self._fs, self._root = fsspec.url_to_fs(str(root), use_listings_cache=False)
        self._root = self._root.rstrip("/")
        self.url = str(root)

    # Reading

    def models(self) -> list[str]:
        """Names of the models that have at least one version, sorted."""
        return [name for name in sorted(self._names("directory")) if self.versions(name)]

    def versions(self, model: str) -> list[int]:
        """The versions of `model`, oldest first; empty when there is none."""
        with self._store("readable"):
            return [n for n in self._numbers(model) if self._fs.exists(self._path(model, str(n), MANIFEST))]

    def aliases(self, model: str) -> dict[str, int]:
        """Alias to version, for every alias of `model`."""
        found: dict[str, int] = {}
        for alias in self._names("file", model, "aliases"):
            with contextlib.suppress(NotInRegistryError):  # removed since it was listed
                found[alias] = self._read_alias(model, alias)
        return found

    def resolve(self, model: str, version: int | str | None = None) -> int:
        """The version number that `version` means: a number, an alias, or None for the one to serve.

        Raises:
            NotInRegistryError: there is no such model, version or alias.
        """
        versions = self.versions(model)
        if not versions:
            raise NotInRegistryError(f"model must be one of {self.models()} in {self.url}. Given: {model!r}")
        if version is None:
            try:
                return self._existing(model, versions, self._read_alias(model, PRODUCTION))
            except NotInRegistryError:
                return versions[-1]
        if isinstance(version, str) and not version.isdecimal():
            version = self._read_alias(model, version)
        return self._existing(model, versions, int(version))

    def manifest(self, model: str, version: int) -> ModelManifest:
        """The manifest of one version.

        Raises:
            NotInRegistryError: there is no such version.
            CorruptVersionError: it cannot be parsed, or speaks of another model or version.
        """
        data = self._read(model, str(version), MANIFEST)
        try:
            manifest = ModelManifest.model_validate_json(data)
        except ValidationError as error:
            raise CorruptVersionError(f"{model}@{version}: {MANIFEST} does not parse: {error}") from error
        if (manifest.name, manifest.version) != (model, version):
            raise CorruptVersionError(
                f"{MANIFEST} in {model}/{version} must speak of {model}@{version}. "
                f"Given: {manifest.name}@{manifest.version}"
            )
        return manifest

    def artifact(self, manifest: ModelManifest) -> bytes:
        """The bytes of `model.pt`, which match the manifest's size and sha256.

        Raises:
            CorruptVersionError: they do not match.
        """
        where = f"{manifest.name}@{manifest.version}"
        try:
            data = self._read(manifest.name, str(manifest.version), ARTIFACT)
        except NotInRegistryError as error:
            raise CorruptVersionError(f"{where}: {ARTIFACT} is missing. Publish the version again.") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.artifact.sha256:
            raise CorruptVersionError(
                f"{where}: sha256 of {ARTIFACT} is {digest} ({len(data)} bytes), the manifest says "
                f"{manifest.artifact.sha256} ({manifest.artifact.size_bytes} bytes). Publish the version again."
            )
        return data

    def file(self, model: str, version: int, name: str) -> bytes:
        """Another file of a version: its card, a plot, the predictions on the test set."""
        return self._read(model, str(version), name)

    # Writing

    def publish(
        self,
        model: str,
        artifact: bytes,
        describe: Callable[[int, Artifact], ModelManifest],
        *,
        files: Mapping[str, bytes] | Callable[[ModelManifest], Mapping[str, bytes]] | None = None,
    ) -> ModelManifest:
        """Write `artifact` and `files` as the next version of `model` and return its manifest.

        `files` may be made from the manifest: a card names the version.

        `describe` makes the manifest once the number is known. The number is claimed first, by creating a file that
        must not exist, so that two publishers never share one; the manifest comes last, so that a version is whole or
        is not there. A publisher that is killed leaves a number that is never used.
        """
        _name.validate_python(model)
        version = self._claim(model)
        try:
            manifest = describe(
                version, Artifact(sha256=hashlib.sha256(artifact).hexdigest(), size_bytes=len(artifact))
            )
            self._write(artifact, model, str(version), ARTIFACT)
            for name, data in ((files(manifest) if callable(files) else files) or {}).items():
                self._write(data, model, str(version), name)
            self._write(manifest.model_dump_json(indent=1).encode(), model, str(version), MANIFEST)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm(self._path(model, str(version)), recursive=True)
            raise
        with contextlib.suppress(Exception):
            self._fs.rm_file(self._path(model, str(version), _CLAIM))
        return manifest

    def adopt(self, source: Registry, model: str, version: int) -> None:
        """Copy a version of another registry under its own number, its manifest last.

        Who copies the same at the same time writes the same bytes.
        """
        names = source._names("file", model, str(version))
        for name in sorted(names, key=lambda name: name == MANIFEST):
            self._write(source.file(model, version, name), model, str(version), name)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point `alias` at `version`, which must exist."""
        _name.validate_python(alias)
        self._write(f"{self._existing(model, self.versions(model), version)}\n".encode(), model, "aliases", alias)

    def promote(self, model: str, version: int, *, when: Callable[[int], bool] | None = None) -> list[int]:
        """Make `version`, which must exist, production, and return the history, in which it is now the last.

        With `when` only if that says so of what is served: nobody changes production between its answer and the
        promotion.

        The history is written first: a promotion that is cut off between the two files has changed nothing that is
        served, and the next one puts the history right.
        """
        self._existing(model, self.versions(model), version)
        with self._turn(model):
            history = self.history(model)
            if when is not None and not when(history[-1]):
                return history
            if history[-1:] != [version]:
                history.append(version)
            self._write("".join(f"{n}\n" for n in history).encode(), model, "history", PRODUCTION)
            self.set_alias(model, PRODUCTION, version)
            return history

    def rollback(self, model: str) -> tuple[int, int]:
        """Make production what it was before, and return (what it was until now, what it is now).

        Raises:
            NotInRegistryError: there is no such model, or no version before this one.
        """
        self.resolve(model)
        with self._turn(model):
            *earlier, current = self.history(model)
            if not earlier:
                raise NotInRegistryError(
                    f"a rollback of {model} must have a version to return to. "
                    f"Given: {current} is the first in production."
                )
            self.set_alias(model, PRODUCTION, earlier[-1])  # and by that the history ends there
            return current, earlier[-1]

    def decide(self, model: str, version: int, decision: str) -> None:
        """Write down, for people, whether `version` was promoted when it was published, and why."""
        self._write(f"{decision}\n".encode(), model, "decisions", str(version))

    def decision(self, model: str, version: int) -> str | None:
        """What was written down of `version` by `decide`, if anything was."""
        try:
            return self._read(model, "decisions", str(version)).decode().strip()
        except NotInRegistryError:
            return None

    def history(self, model: str) -> list[int]:
        """What is and was production, oldest first, the present one last; versions that are gone are left out.

        A model that nothing was promoted of has served its newest version ever since it was there.
        """
        versions = self.versions(model)
        current = self.resolve(model)
        try:
            lines = self._read(model, "history", PRODUCTION).split()
        except NotInRegistryError:
            promoted = [n for n in versions if n <= current]
        else:
            promoted = [int(line) for line in lines if line.isdigit() and int(line) in versions]
        if current in promoted:  # what stands after it was rolled back, or its promotion was cut off
            return promoted[: len(promoted) - promoted[::-1].index(current)]
        return [*promoted, current]

    # The store

    @contextlib.contextmanager
    def _turn(self, model: str) -> Iterator[None]:
        with self._store("writable"), turn(self._fs, self._path(model, "turns")):
            yield

    def _claim(self, model: str) -> int:
        version = max(self._numbers(model), default=0) + 1
        while True:
            path = self._path(model, str(version), _CLAIM)
            with self._store("writable"):
                self._fs.makedirs(self._path(model, str(version)), exist_ok=True)
                try:
                    with self._fs.open(path, "xb") as file:
                        file.write(b"claimed\n")  # s3fs creates an empty file whether there is one or not
                except FileExistsError:
                    version += 1
                    continue
                if not self._fs.exists(self._path(model, str(version), MANIFEST)):
                    return version
                self._fs.rm_file(path)  # published in full between the listing and the claim
                version += 1

    def _existing(self, model: str, versions: list[int], version: int) -> int:
        if version not in versions:
            raise NotInRegistryError(f"version of {model} must be one of {versions}. Given: {version}")
        return version

    def _read_alias(self, model: str, alias: str) -> int:
        if not _is_name(alias):
            raise NotInRegistryError(f"version must be a number or an alias. Given: {alias!r}")
        text = self._read(model, "aliases", alias).strip()
        if not text.isdigit():
            raise CorruptVersionError(f"alias {alias!r} of {model} must hold a version number. Given: {text[:40]!r}")
        return int(text)

    def _numbers(self, model: str) -> list[int]:
        return sorted(int(name) for name in self._names("directory", model) if name.isascii() and name.isdecimal())

    def _names(self, kind: Literal["directory", "file"], *parts: str) -> list[str]:
        if not all(map(_is_name, parts)):
            return []
        try:
            with self._store("readable"):
                entries: list[dict[str, Any]] = self._fs.ls(self._path(*parts), detail=True)
        except NotInRegistryError:
            return []
        names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == kind]
        return [name for name in names if _is_name(name)]

    def _read(self, *parts: str) -> bytes:
        with self._store("readable"):
            data: bytes = self._fs.cat_file(self._path(*parts))
        return data

    def _write(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all: beside its name, then moved onto it."""
        path = self._path(*parts)
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        with self._store("writable"):
            try:
                self._fs.makedirs(folder, exist_ok=True)
                self._fs.pipe_file(beside, data)
                self._fs.mv(beside, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(beside)
                raise

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextlib.contextmanager
    def _store(self, ability: Literal["readable", "writable"]) -> Iterator[None]:
        """Turn what the store raises, which differs from store to store, into `RegistryError`."""
        try:
            yield
        except (RegistryError, FileExistsError):
            raise
        except FileNotFoundError as error:
            raise NotInRegistryError(f"{error.filename or error} is not in {self.url}.") from error
        except Exception as error:
            raise RegistryError(f"{self.url} must be {ability}. Given: {type(error).__name__}: {error}") from error


def _is_name(text: str) -> bool:
    try:
        _name.validate_python(text)
    except ValidationError:
        return False
    return True
