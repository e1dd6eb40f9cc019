"""One version in a flat folder (`model.pt`, `manifest.json`) as a registry of its own, as KServe hands it to a server.

Knows nothing about who put it there; it is read as any other version is.
"""

from __future__ import annotations

from service.contract import registries
from service.contract.manifest import ModelManifest
from service.contract.registry import MANIFEST, CorruptVersionError, NotInRegistryError, Registry


class ModelFolder(Registry):
    """The registry with the one version in `folder`, under the manifest's own name or `name`."""

    def __init__(self, folder: str, name: str | None = None) -> None:
        super().__init__(folder)
        self._given_name = name

    def models(self) -> list[str]:
        return [self._found().name]

    def versions(self, model: str) -> list[int]:
        found = self._found()
        return [found.version] if model == found.name else []

    def manifest(self, model: str, version: int) -> ModelManifest:
        found = self._found()
        if (model, version) != (found.name, found.version):
            raise NotInRegistryError(
                f"the version must be {found.name}@{found.version}, the only one in {self.url}. "
                f"Given: {model}@{version}"
            )
        return found

    def _found(self) -> ModelManifest:
        """Return the manifest in the folder, renamed.

        Raises:
            NotInRegistryError: there is none.
            CorruptVersionError: it does not parse.
        """
        try:
            found = ModelManifest.model_validate_json(self._read("any", "0", MANIFEST))
            return ModelManifest.model_validate({**found.model_dump(), "name": self._given_name or found.name})
        except ValueError as error:
            raise CorruptVersionError(f"{self.url}/{MANIFEST} does not parse: {error}") from error

    def _path(self, *parts: str) -> str:
        """Return where a file of the version lies; a model's other files (aliases, history) are in no flat folder."""
        _, *inside = parts
        if inside and inside[0].isdecimal():
            inside = inside[1:]
        return "/".join((self._root, *inside))


def open_registry(url: str, folder: str | None, name: str | None) -> Registry:
    """Return the flat folder if there is one, else the registry at `url`."""
    return ModelFolder(folder, name) if folder else registries.open_registry(url, must_exist=False)
