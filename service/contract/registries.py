"""Several registries as one: each model comes from the first that has it. Knows nothing about where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from service.contract.listing import Listings, ModelListing
from service.contract.manifest import ModelManifest
from service.contract.registry import NotInRegistryError, Registry, RegistryError
from service.contract.signatures import SigningKey, TrustedKeys

_EXTRAS = {"s3": "argmax[s3]", "s3a": "argmax[s3]"}
"""What to install for a protocol, where this project has an extra for it."""


def open_registry(
    urls: str, *, must_exist: bool = True, trusted: TrustedKeys | None = None, signer: SigningKey | None = None
) -> Registry:
    """Open the registry at `urls`, or several that are separated by commas, of which earlier ones win.

    `trusted` and `signer` are as in `Registry`.

    Raises:
        RegistryError: one cannot be opened, or with `must_exist` all are folders and none of them is there.
    """
    roots = [url.strip() for url in urls.split(",") if url.strip()]
    opened = [_open(root, trusted, signer) for root in roots]
    if must_exist and not any("://" in root or Path(root).is_dir() for root in roots):
        raise RegistryError(f"registry must be a folder that exists. Given: {urls or 'nothing'}")
    return opened[0] if len(opened) == 1 else Registries(opened)


def _open(url: str, trusted: TrustedKeys | None, signer: SigningKey | None) -> Registry:
    protocol = url.partition("://")[0]
    try:
        return Registry(url, trusted=trusted, signer=signer)
    except ImportError as error:
        install = f"pip install '{_EXTRAS[protocol]}'" if protocol in _EXTRAS else str(error)
        raise RegistryError(f"{protocol}:// must have its package installed: {install}. Given: {url}") from error
    except (ValueError, OSError) as error:
        raise RegistryError(f"registry must be a folder or a URL that fsspec knows. Given: {url} ({error})") from error


class Registries(Registry):
    """Registries in order; a model that two of them have is that of the first, with all its versions and aliases."""

    def __init__(self, registries: Sequence[Registry]) -> None:
        self._registries = tuple(registries)
        self._holders: dict[str, Registry] = {}  # as of the last listing of all models
        self.url = ", ".join(registry.url for registry in registries)

    def look(self) -> Listings:
        """Return what is there of every model, each from the first registry that has it."""
        found: dict[str, ModelListing] = {}
        holders: dict[str, Registry] = {}
        for registry in reversed(self._registries):
            listings = registry.look()
            found |= listings
            holders |= dict.fromkeys(listings, registry)
        self._holders = holders
        return {name: found[name] for name in sorted(found)}

    def models(self) -> list[str]:
        """Return the names of the models that have at least one version, sorted."""
        self._holders = {name: registry for registry in reversed(self._registries) for name in registry.models()}
        return sorted(self._holders)

    def holder(self, model: str) -> Registry:
        """Return the first registry that has versions of `model`, else the last one."""
        known = self._holders.get(model)
        return known or next((one for one in self._registries if one.versions(model)), self._registries[-1])

    def versions(self, model: str) -> list[int]:
        """Return the versions of `model`, oldest first; empty when there is none."""
        return self.holder(model).versions(model)

    def aliases(self, model: str) -> dict[str, int]:
        """Alias to version, for every alias of `model`."""
        return self.holder(model).aliases(model)

    def resolve(self, model: str, version: int | str | None = None) -> int:
        """Return the version number that `version` means, as in one registry.

        Raises:
            NotInRegistryError: there is no such model, version or alias.
        """
        if not self.versions(model):
            raise NotInRegistryError(f"model must be one of {self.models()} in {self.url}. Given: {model!r}")
        return self.holder(model).resolve(model, version)

    def manifest(self, model: str, version: int) -> ModelManifest:
        """Return the manifest of one version."""
        return self.holder(model).manifest(model, version)

    def artifact(self, manifest: ModelManifest) -> bytes:
        """Return the bytes of `model.pt`, which match the manifest's size and sha256."""
        return self.holder(manifest.name).artifact(manifest)

    def file(self, model: str, version: int, name: str) -> bytes:
        """Return another file of a version."""
        return self.holder(model).file(model, version, name)

    def promote(
        self, model: str, version: int, *, when: Callable[[int], bool] | None = None, verify: bool = True
    ) -> list[int]:
        """Make `version` production in the registry that has it, and return the history."""
        return self.holder(model).promote(model, version, when=when, verify=verify)

    def rollback(self, model: str) -> tuple[int, int]:
        """Make production what it was before, in the registry that has the model."""
        return self.holder(model).rollback(model)

    def history(self, model: str) -> list[int]:
        """Return what is and was production, oldest first, the present one last."""
        return self.holder(model).history(model)
