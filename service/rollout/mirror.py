"""A registry with a local copy behind it, which stands in while the registry cannot be read.

Knows nothing about which versions should serve.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from service.contract.listing import Listings
from service.contract.manifest import ModelManifest
from service.contract.model_folder import open_registry
from service.contract.registry import Registry, RegistryError, parse_manifest
from service.contract.signatures import TrustedKeys
from service.rollout.cache import Cache
from service.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long a start waits for a registry that may hang, if there is a copy to start from."""


class NotInCopyError(RegistryError):
    """A version that is not in the local copy, while nothing else is asked."""


def cache_folder(settings: Settings, run_dir: Path) -> Path:
    """Return where a service keeps its copy of a registry."""
    return Path(settings.cache_dir or run_dir / "cache")


def open_mirror(settings: Settings, run_dir: Path, on_read: Callable[[float], None] | None = None) -> Mirror:
    """Return the registry that the settings name, with the copy that all processes of the service share.

    A flat folder is never read again, so nobody hears how long ago that was.
    """
    trusted = TrustedKeys.read(Path(settings.trusted_keys)) if settings.trusted_keys else None
    registry = open_registry(settings.registry, settings.model_dir, settings.model_name, trusted)
    # What was verified with other keys, of which one may have been revoked since, does not stand in for the registry.
    known_as = f"{registry.url} {trusted.digest}" if trusted else registry.url
    cache = Cache(cache_folder(settings, run_dir), known_as, settings.cache_bytes)
    return Mirror(registry, cache, on_read=_ignore if settings.model_dir or not on_read else on_read)


def _ignore(read_at: float) -> None:
    del read_at


class Mirror:
    """Reads a registry, and keeps in `cache` what a worker needs to start without it.

    `on_read` hears when the registry was last read, on time.monotonic()'s clock.
    """

    def __init__(
        self,
        registry: Registry,
        cache: Cache | None = None,
        *,
        on_read: Callable[[float], None] = _ignore,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._on_read = on_read
        self._patience_seconds = patience_seconds
        self._known = cache.known() if cache else None
        self._offline = False
        self.url = registry.url

    def look(self) -> Listings:
        """Return what the registry holds now.

        A model whose files have become unreadable, or whose aliases have become nonsense, is as it was known before.

        Raises:
            RegistryError: it cannot be read, or it is empty.
        """
        self._offline = False
        listings = self._registry.look()
        if not any(listing.versions for listing in listings.values()):  # more likely a mistake than a wish
            faults = [fault for listing in listings.values() for fault in listing.faults.values()]
            raise RegistryError(
                f"{self.url} must hold a version that can serve. Given: {'; '.join(faults[:3]) or 'no model'}. "
                "Publish one with: python -m training train RECIPE --publish"
            )
        self._on_read(time.monotonic())
        if self._cache:
            self._cache.confirm()
        before = self._known or {}
        return {name: listing.or_last_known(before.get(name)) for name, listing in listings.items()}

    def look_patiently(self) -> Listings:
        """Return what the registry holds now; give up after a while if a copy can stand in.

        Raises:
            RegistryError: as `look`, or it has not answered in time.
        """
        if not self._known:
            return self.look()
        found: list[Listings | RegistryError] = []

        def look() -> None:
            try:
                found.append(self.look())
            except RegistryError as error:
                found.append(error)

        thread = threading.Thread(target=look, name="first-look", daemon=True)
        thread.start()
        thread.join(self._patience_seconds)
        if not found:
            raise RegistryError(f"{self.url} must answer within {self._patience_seconds:g} s. Given: nothing")
        if isinstance(found[0], RegistryError):
            raise found[0]
        return found[0]

    def last_known(self) -> Listings | None:
        """Return what was last known, if anything was; until the next look, versions come from the copy alone."""
        age = self._cache.age_seconds() if self._cache else None
        if not self._known or age is None:
            return None
        self._offline = True
        self._on_read(time.monotonic() - age)
        return self._known

    def manifest(self, name: str, version: int) -> ModelManifest:
        """Return a version's manifest.

        Raises:
            RegistryError: it cannot be read, or does not parse.
        """
        if not self._offline:
            return self._registry.manifest(name, version)
        data = self._cache.manifest(name, version) if self._cache else None
        if data is None:
            raise NotInCopyError(
                f"{name}@{version} must be read from the registry. Given: only the local copy was asked"
            )
        return parse_manifest(data, name, version)

    def has_served(self, name: str, version: int) -> bool:
        """Return whether the copy says that a version has served, here or elsewhere with the same copy."""
        return bool(self._cache and self._cache.manifest(name, version) is not None)

    def artifact(self, manifest: ModelManifest) -> bytes:
        """Return the bytes of a version's artifact, which have the manifest's digest.

        Raises:
            RegistryError: they cannot be read, or have another.
        """
        if self._cache and (data := self._cache.artifact(manifest.artifact.sha256)) is not None:
            return data
        if self._offline:
            raise NotInCopyError(
                f"{manifest.name}@{manifest.version}: its artifact must be read from the registry. "
                "Given: only the local copy was asked"
            )
        data = self._registry.artifact(manifest)
        if self._cache:
            self._cache.keep(manifest.artifact.sha256, data)
        return data

    def keep(self, manifest: ModelManifest) -> None:
        """Keep the manifest of a version that serves, for a start without the registry."""
        if self._cache and not self._offline:
            self._cache.keep_manifest(manifest.name, manifest.version, manifest.model_dump_json().encode())

    def remember(self, listings: Listings) -> None:
        """Keep what is known of the registry, if it changed."""
        if self._cache and (listings != self._known or self._cache.age_seconds() is None):
            self._cache.remember(listings)
        self._known = listings
