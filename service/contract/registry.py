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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from service.contract.lister import ARTIFACT, CLAIM, FAULT_LENGTH, HISTORY, MANIFEST, NAME, Lister, is_name
from service.contract.listing import ALIASES, PRODUCTION, Listings, ModelListing
from service.contract.manifest import Artifact, ModelManifest
from service.contract.signatures import SIGNATURE_FILE_BYTES, SignatureError, SigningKey, TrustedKeys
from service.contract.store import CorruptVersionError, NotInRegistryError, RegistryError, Store, UnreadableError

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

SIGNATURE = "manifest.sig"
MANIFEST_BYTES = 8 * 2**20
"""The largest manifest that is read. Those of the shipped models have 2 to 38 kB, most of it the golden sample."""


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
        self._lister = Lister(self._store)
        self.url = self._store.url

    def holder(self, model: str) -> Registry:
        """Return the registry that holds `model`, of several that are read as one: here itself."""
        del model
        return self

    # Reading

    def look(self) -> Listings:
        """Return what is there of every model, from one listing and the aliases that changed since the last look.

        A fault in one model's files is in that model's listing and hides nothing else.
        """
        return self._lister.look()

    def models(self) -> list[str]:
        """Return the names of the models that have at least one version, sorted."""
        return self._lister.models()

    def versions(self, model: str) -> list[int]:
        """Return the versions of `model`, oldest first; empty when there is none."""
        return self._lister.versions(model)

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
        NAME.validate_python(model)
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
        self._store.remove(model, str(version), CLAIM)
        return manifest

    def adopt(self, source: Registry, model: str, version: int) -> None:
        """Copy a version of another registry under its own number, its manifest last.

        Who copies the same at the same time writes the same bytes.
        """
        listed = source._store.contents(model, str(version), is_relevant=lambda path: is_name(path[-1])).files
        for name in sorted((path[-1] for path in listed), key=lambda name: name == MANIFEST):
            self._store.write(source.file(model, version, name), model, str(version), name)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point `alias` at `version`, which must exist."""
        NAME.validate_python(alias)
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
            self._write_history(model, history)
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
            self.set_alias(model, PRODUCTION, earlier[-1])  # and by that the history ends there, unless it comes again
            self._write_history(model, earlier)
            return current, earlier[-1]

    def _write_history(self, model: str, versions: list[int]) -> None:
        self._store.write("".join(f"{n}\n" for n in versions).encode(), model, HISTORY, PRODUCTION)

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

    def _listing(self, model: str) -> ModelListing:
        return self._lister.listing(model)

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
        version = max(self._lister.claimed(model), default=0) + 1
        while True:
            # s3fs creates an empty file whether there is one or not.
            if self._store.create(b"claimed\n", model, str(version), CLAIM):
                if not self._store.exists(model, str(version), MANIFEST):
                    return version
                self._store.remove(model, str(version), CLAIM)  # published in full between the listing and the claim
            version += 1


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
        raise CorruptVersionError(reason[:FAULT_LENGTH]) from None
    if (manifest.name, manifest.version) != (model, version):
        raise CorruptVersionError(
            f"{MANIFEST} in {model}/{version} must speak of {model}@{version}. "
            f"Given: {manifest.name}@{manifest.version}"
        )
    return manifest
