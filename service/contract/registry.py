"""The registry: a folder or a bucket of immutable versions, the only thing between training and service.

    <root>/<model>/<version>/model.pt, manifest.json, ...   a version exists once its manifest does
    <root>/<model>/<version>/manifest.sig                   who signed the manifest, if anybody did
    <root>/<model>/aliases/<alias>                          holds one version number
    <root>/<model>/history/production                       what was promoted, one version number a line, oldest first
    <root>/<model>/decisions/<version>                      whether whoever trained it promoted it, in words
    <root>/<model>/turns/<number>                           there while somebody changes what is production

Knows nothing about torch or HTTP; what a version's files mean is the manifest's business.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.contract.listing import ALIASES, PRODUCTION, Listings, ModelListing, VersionFiles
from service.contract.manifest import MOST_VERSIONS, Artifact, ModelManifest, Name
from service.contract.signatures import SIGNATURE_FILE_BYTES, SignatureError, SigningKey, TrustedKeys
from service.contract.store import Contents, Entry, NotInRegistryError, Parts, RegistryError, Store, UnreadableError

__all__ = [
    "ARTIFACT",
    "MANIFEST",
    "PRODUCTION",
    "CorruptVersionError",
    "NotInRegistryError",
    "Registry",
    "RegistryError",
    "UnreadableError",
    "UntrustedVersionError",
]

ARTIFACT = "model.pt"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
MANIFEST_BYTES = 8 * 2**20
"""The largest manifest that is read. Those of the shipped models have 2 to 38 kB, most of it the golden sample."""

_HISTORY = "history"
_CLAIM = ".claim"
_ALIAS_BYTES = 32
_HISTORY_BYTES = 2**20
_FAULT_LENGTH = 1000

_name = TypeAdapter(Name)


class CorruptVersionError(RegistryError):
    """A version whose files do not match its manifest, or whose manifest cannot be read."""


class UntrustedVersionError(RegistryError):
    """A version that no trusted key has signed. Its signature may still come, so it is no corrupt one."""


class Registry:
    """Read and write versions under `root`, a path or any fsspec URL (`s3://bucket/models`).

    With `trusted`, manifests that none of these keys has signed are not read. With `signer`, what is published is
    signed.

    Listings are fresh on every call. Every method raises `RegistryError` (or one of its kinds) when the store cannot be
    read or written.
    """

    def __init__(
        self, root: str | Path, *, trusted: TrustedKeys | None = None, signer: SigningKey | None = None
    ) -> None:
        self._store = Store(root)
        self._trusted = trusted
        self._signer = signer
        self._small: dict[Parts, tuple[str, bytes]] = {}  # aliases and histories, with the tags that they had
        self.url = self._store.url

    # Reading

    def look(self) -> Listings:
        """Return what is there of every model, from one listing and the aliases that changed since the last look.

        A fault in one model's files is in that model's listing and hides nothing else.
        """
        return self._listings(self._store.contents(is_relevant=_is_relevant))

    def models(self) -> list[str]:
        """Return the names of the models that have at least one version, sorted."""
        contents = self._store.contents(is_relevant=_is_relevant)
        return sorted({path[0] for path in contents.files if _version_of(path)})

    def versions(self, model: str) -> list[int]:
        """Return the versions of `model`, oldest first; empty when there is none."""
        return sorted(filter(None, map(_version_of, self._contents(model).files)))

    def aliases(self, model: str) -> dict[str, int]:
        """Alias to version, for every alias of `model` that names a version which is there."""
        return dict(self._listing(model).aliases)

    def resolve(self, model: str, version: int | str | None = None) -> int:
        """Return the version number that `version` means: a number, an alias, or None for the one to serve.

        Raises:
            NotInRegistryError: there is no such model, version or alias.
            CorruptVersionError: the alias holds no version's number.
        """
        listing = self._listing(model)
        if not listing.versions:
            raise NotInRegistryError(f"model must be one of {self.models()} in {self.url}. Given: {model!r}")
        if version is None or (isinstance(version, str) and not (version.isascii() and version.isdecimal())):
            return self._aliased(model, listing, version or PRODUCTION, or_else=None if version else listing.production)
        return self._existing(model, listing, int(version))

    def manifest(self, model: str, version: int) -> ModelManifest:
        """Return the manifest of one version.

        Raises:
            NotInRegistryError: there is no such version.
            UntrustedVersionError: no trusted key has signed it.
            CorruptVersionError: it cannot be parsed, or speaks of another model or version.
        """
        data = self._store.read(model, str(version), MANIFEST, most_bytes=MANIFEST_BYTES)
        self._expect_trusted(data, model, version)
        return parse_manifest(data, model, version)

    def _expect_trusted(self, manifest: bytes, model: str, version: int) -> None:
        if self._trusted is None:
            return
        try:
            signature = self._store.read(model, str(version), SIGNATURE, most_bytes=SIGNATURE_FILE_BYTES)
        except NotInRegistryError:
            signature = None
        try:
            self._trusted.verify(manifest, signature)
        except SignatureError as error:
            raise UntrustedVersionError(f"{model}@{version}: {error}") from error

    def artifact(self, manifest: ModelManifest) -> bytes:
        """Return the bytes of `model.pt`, which match the manifest's size and sha256.

        Raises:
            CorruptVersionError: they do not match.
        """
        where, said = f"{manifest.name}@{manifest.version}", manifest.artifact
        try:
            data = self._store.read(manifest.name, str(manifest.version), ARTIFACT, most_bytes=said.size_bytes)
        except NotInRegistryError as error:
            raise CorruptVersionError(f"{where}: {ARTIFACT} is missing. Publish the version again.") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != said.sha256:
            size = f"{len(data)} bytes" if len(data) <= said.size_bytes else "more bytes"
            raise CorruptVersionError(
                f"{where}: sha256 of {ARTIFACT} is {digest} ({size}), the manifest says "
                f"{said.sha256} ({said.size_bytes} bytes). Publish the version again."
            )
        return data

    def file(self, model: str, version: int, name: str) -> bytes:
        """Return another file of a version: its card, a plot, the predictions on the test set."""
        return self._store.read(model, str(version), name)

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
            self._store.write(artifact, model, str(version), ARTIFACT)
            for name, data in ((files(manifest) if callable(files) else files) or {}).items():
                self._store.write(data, model, str(version), name)
            data = manifest.model_dump_json(indent=1).encode()
            if self._signer:
                self._store.write(self._signer.sign(data), model, str(version), SIGNATURE)
            self._store.write(data, model, str(version), MANIFEST)
        except BaseException:
            self._store.remove_folder(model, str(version))
            raise
        self._store.remove(model, str(version), _CLAIM)
        return manifest

    def adopt(self, source: Registry, model: str, version: int) -> None:
        """Copy a version of another registry under its own number, its manifest last.

        Who copies the same at the same time writes the same bytes.
        """
        listed = source._store.contents(model, str(version), is_relevant=lambda path: _is_name(path[-1])).files
        for name in sorted((path[-1] for path in listed), key=lambda name: name == MANIFEST):
            self._store.write(source.file(model, version, name), model, str(version), name)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point `alias` at `version`, which must exist."""
        _name.validate_python(alias)
        self._existing(model, self._listing(model), version)
        self._store.write(f"{version}\n".encode(), model, ALIASES, alias)

    def promote(
        self, model: str, version: int, *, when: Callable[[int], bool] | None = None, verify: bool = True
    ) -> list[int]:
        """Make `version`, which must exist, production, and return the history, in which it is now the last.

        With `when` only if that says so of what is served: nobody changes production between its answer and the
        promotion. `verify` reads the version first, so that none is promoted whose files are damaged.

        The history is written first: a promotion that is cut off between the two files has changed nothing that is
        served, and the next one puts the history right.

        Raises:
            CorruptVersionError: its manifest does not parse, or its artifact does not match it.
        """
        self._existing(model, self._listing(model), version)
        if verify:
            self.artifact(self.manifest(model, version))
        with self._turn(model):
            history = self.history(model)
            if when is not None and not when(history[-1]):
                return history
            if history[-1:] != [version]:
                history.append(version)
            self._store.write("".join(f"{n}\n" for n in history).encode(), model, _HISTORY, PRODUCTION)
            self.set_alias(model, PRODUCTION, version)
            return history

    def rollback(self, model: str) -> tuple[int, int]:
        """Make production what it was before, and return (what it was until now, what it is now).

        Raises:
            NotInRegistryError: there is no such model, or no version before this one.
            CorruptVersionError: the files of the version before are damaged.
        """
        self.history(model)  # before there is a turn in a model that is not there
        with self._turn(model):
            *earlier, current = self.history(model)
            if not earlier:
                raise NotInRegistryError(
                    f"a rollback of {model} must have a version to return to. "
                    f"Given: {current} is the first in production."
                )
            self.artifact(self.manifest(model, earlier[-1]))
            self.set_alias(model, PRODUCTION, earlier[-1])  # and by that the history ends there
            return current, earlier[-1]

    def decide(self, model: str, version: int, decision: str) -> None:
        """Write down, for people, whether `version` was promoted when it was published, and why."""
        self._store.write(f"{decision}\n".encode(), model, "decisions", str(version))

    def decision(self, model: str, version: int) -> str | None:
        """Return what was written down of `version` by `decide`, if anything was."""
        try:
            return self._store.read(model, "decisions", str(version)).decode().strip()
        except NotInRegistryError:
            return None

    def history(self, model: str) -> list[int]:
        """Return what is and was production, oldest first, the present one last; versions that are gone are left out.

        A model that nothing was promoted of has served its newest version ever since it was there.
        """
        listing = self._listing(model)
        if not listing.versions:
            raise NotInRegistryError(f"model must be one of {self.models()} in {self.url}. Given: {model!r}")
        return listing.history()

    # Listings

    def _contents(self, model: str) -> Contents:
        if not _is_name(model):
            return Contents({}, set(), {})
        return self._store.contents(model, is_relevant=_is_relevant)

    def _listing(self, model: str) -> ModelListing:
        return self._listings(self._contents(model)).get(model, ModelListing())

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
                elif path[1:] == (_HISTORY, PRODUCTION):
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

    def _aliased(self, model: str, listing: ModelListing, alias: str, *, or_else: Callable[[], int] | None) -> int:
        if alias in listing.aliases:
            return listing.aliases[alias]
        if fault := listing.faults.get(f"{ALIASES}/{alias}"):
            raise CorruptVersionError(f"alias {alias!r} of {model}: {fault}")
        if or_else:
            return or_else()
        raise NotInRegistryError(
            f"version of {model} must be one of {[*listing.versions, *listing.aliases]}. Given: {alias!r}"
        )

    def _existing(self, model: str, listing: ModelListing, version: int) -> int:
        if version not in listing.versions:
            raise NotInRegistryError(f"version of {model} must be one of {list(listing.versions)}. Given: {version}")
        return version

    @contextlib.contextmanager
    def _turn(self, model: str) -> Iterator[None]:
        with self._store.turn(model, "turns"):
            yield

    # Claims

    def _claim(self, model: str) -> int:
        version = max(self._numbers(model), default=0) + 1
        while True:
            # s3fs creates an empty file whether there is one or not.
            if self._store.create(b"claimed\n", model, str(version), _CLAIM):
                if not self._store.exists(model, str(version), MANIFEST):
                    return version
                self._store.remove(model, str(version), _CLAIM)  # published in full between the listing and the claim
            version += 1

    def _numbers(self, model: str) -> list[int]:
        names = {path[1] for path in self._contents(model).folders if len(path) > 1}
        return sorted(filter(None, map(_number, names)))


def parse_manifest(data: bytes, model: str, version: int) -> ModelManifest:
    """Return the manifest of one version.

    Raises:
        CorruptVersionError: it cannot be parsed, or speaks of another model or version.
    """
    if len(data) > MANIFEST_BYTES:
        raise CorruptVersionError(f"{model}@{version}: {MANIFEST} must have at most {MANIFEST_BYTES:,} bytes")
    try:
        manifest = ModelManifest.model_validate_json(data)
    except ValidationError as error:
        # Without what was given: it may be a link to a file that is nobody's business, or very long.
        wrong = (
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
            for problem in error.errors(include_input=False, include_url=False)[:3]
        )
        reason = f"{model}@{version}: {MANIFEST} does not parse: {'; '.join(wrong)}"
        raise CorruptVersionError(reason[:_FAULT_LENGTH]) from None
    if (manifest.name, manifest.version) != (model, version):
        raise CorruptVersionError(
            f"{MANIFEST} in {model}/{version} must speak of {model}@{version}. "
            f"Given: {manifest.name}@{manifest.version}"
        )
    return manifest


def _is_relevant(path: Parts) -> bool:
    """Return whether the registry reads a path, or what is below it."""
    if len(path) == 1:
        return _is_name(path[0])
    folder, file = path[1], path[2] if len(path) == 3 else None
    if folder == ALIASES:
        return file is None or _is_name(file)
    if folder == _HISTORY:
        return file in (None, PRODUCTION)
    return folder.isascii() and folder.isdecimal() and file in (None, MANIFEST, ARTIFACT, _CLAIM)


def _version_of(path: Parts) -> int | None:
    """Return the version whose manifest a path is, if it is one's."""
    return _number(path[1]) if len(path) == 3 and path[2] == MANIFEST else None


def _number(text: str) -> int | None:
    """Return the number of a version's folder: 1 and up, written as `str` does."""
    if text.isascii() and text.isdecimal() and not text.startswith("0") and len(text) <= len(str(MOST_VERSIONS)):
        return int(text)
    return None


def _fault(path: Parts, reason: str) -> str:
    return f"{'/'.join(path)}: {reason}"[:_FAULT_LENGTH]


def _is_name(text: str) -> bool:
    try:
        _name.validate_python(text)
    except ValidationError:
        return False
    return True
