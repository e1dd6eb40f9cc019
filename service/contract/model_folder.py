"""One version in a flat folder (`model.pt`, `manifest.json`) as a registry of its own, as KServe hands it to a server.

Knows nothing about who put it there; it is read as any other version is.
"""

from __future__ import annotations

from service.contract import registries
from service.contract.listing import Listings, ModelListing, VersionFiles
from service.contract.manifest import ModelManifest
from service.contract.registry import MANIFEST, MANIFEST_BYTES, CorruptVersionError, NotInRegistryError, Registry
from service.contract.signatures import TrustedKeys
from service.contract.store import Store


class _FlatStore(Store):
    """A folder in which the files of every version are those of the one that is there."""

    def path(self, *parts: str) -> str:
        return super().path(*parts[2:])


class ModelFolder(Registry):
    """The registry with the one version in `folder`, under the manifest's own name or `name`."""

    def __init__(self, folder: str, name: str | None = None, *, trusted: TrustedKeys | None = None) -> None:
        super().__init__(folder, trusted=trusted)
        self._store = _FlatStore(folder)
        self._given_name = name

    def look(self) -> Listings:
        found = self._found()
        return {found.name: ModelListing(versions={found.version: VersionFiles(manifest_bytes=0)})}

    def models(self) -> list[str]:
        return list(self.look())

    def versions(self, model: str) -> list[int]:
        return list(self._listing(model).versions)

    def manifest(self, model: str, version: int) -> ModelManifest:
        found = self._found()
        if (model, version) != (found.name, found.version):
            raise NotInRegistryError(
                f"the version must be {found.name}@{found.version}, the only one in {self.url}. "
                f"Given: {model}@{version}"
            )
        return found

    def _listing(self, model: str) -> ModelListing:
        return self.look().get(model, ModelListing())

    def _found(self) -> ModelManifest:
        """Return the manifest in the folder, renamed.

        Raises:
            NotInRegistryError: there is none.
            UntrustedVersionError: no trusted key has signed it.
            CorruptVersionError: it does not parse.
        """
        try:
            data = self._store.read("any", "0", MANIFEST, most_bytes=MANIFEST_BYTES)
            found = ModelManifest.model_validate_json(data)
            self._expect_trusted(data, found.name, found.version)
            return ModelManifest.model_validate({**found.model_dump(), "name": self._given_name or found.name})
        except ValueError as error:
            raise CorruptVersionError(f"{self.url}/{MANIFEST} does not parse: {error}") from error


def open_registry(url: str, folder: str | None, name: str | None, trusted: TrustedKeys | None = None) -> Registry:
    """Return the flat folder if there is one, else the registry at `url`; `trusted` is as in `Registry`."""
    if folder:
        return ModelFolder(folder, name, trusted=trusted)
    return registries.open_registry(url, must_exist=False, trusted=trusted)
