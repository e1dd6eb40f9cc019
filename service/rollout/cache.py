"""The service's own copy of what it needs of a registry: artifacts by digest, and what was last known of the models.

Whatever is damaged or cannot be written is as if it were not there: the copy must never be what a service fails of.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.contract.listing import Listings, ModelListing

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_UNFINISHED_SECONDS = 3600.0
"""After which a file that somebody began to write is taken for left behind."""


_LISTINGS = TypeAdapter(dict[str, ModelListing])


class Cache:
    """Files in `folder`, at most `max_bytes` of artifacts; several processes may use it, and several registries.

    `url` is the registry that manifests and what is known are of.
    """

    def __init__(self, folder: Path, url: str, max_bytes: int) -> None:
        self._artifacts = folder / "artifacts"
        self._registry = folder / f"registry-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        self._known = self._registry / "known.json"
        self._max_bytes = max_bytes
        self._trouble = ""  # the error that was logged last

    def artifact(self, digest: str) -> bytes | None:
        """Return the bytes with this sha256 if they are here."""
        path = self._artifacts / digest
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                os.utime(path)  # used now: it is dropped last
                return data
            path.unlink()  # cut off, or decayed
        except OSError:
            pass
        return None

    def keep(self, digest: str, data: bytes) -> None:
        """Keep verified bytes, and drop what was not used for longest if they are too many."""
        if len(data) <= self._max_bytes and self._write(self._artifacts / digest, data):
            self._drop(digest)

    def manifest(self, name: str, version: int) -> bytes | None:
        """Return a version's manifest if it is here."""
        try:
            return self._manifest(name, version).read_bytes()
        except OSError:
            return None

    def keep_manifest(self, name: str, version: int, data: bytes) -> None:
        """Keep the manifest of a version that serves."""
        if self.manifest(name, version) != data:
            self._write(self._manifest(name, version), data)

    def known(self) -> Listings | None:
        """Return what was last known of the registry, if anything was."""
        try:
            return _LISTINGS.validate_json(self._known.read_bytes())
        except (OSError, ValidationError):
            return None

    def remember(self, listings: Listings) -> None:
        """Write down what is known of the registry, and drop the manifests of versions that are gone."""
        if self._write(self._known, _LISTINGS.dump_json(dict(listings))):
            present = {self._manifest(name, n) for name, listing in listings.items() for n in listing.versions}
            for path in {*self._registry.glob("*@*.json")} - present:
                path.unlink(missing_ok=True)

    def _manifest(self, name: str, version: int) -> Path:
        return self._registry / f"{name}@{version}.json"

    def confirm(self) -> None:
        """Record that what is known is so until now."""
        try:
            os.utime(self._known)
        except OSError:
            return

    def age_seconds(self) -> float | None:
        """Return how long ago the registry was last read, by whichever process; None if nothing is known."""
        try:
            return max(0.0, time.time() - self._known.stat().st_mtime)
        except OSError:
            return None

    def _write(self, path: Path, data: bytes) -> bool:
        """Write a file whole or not at all; return whether it is there."""
        unfinished = path.parent / f"{uuid.uuid4().hex}{_UNFINISHED}"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(data)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            if str(error.strerror) != self._trouble:
                self._trouble = str(error.strerror)
                logger.warning("%s cannot be written, so an outage of the registry may stop workers: %s", path, error)
            return False
        self._trouble = ""
        return True

    def _drop(self, newest: str) -> None:
        found: list[tuple[float, int, Path]] = []
        try:
            for path in self._artifacts.iterdir():
                status = path.stat()
                if path.suffix != _UNFINISHED:
                    found.append((status.st_mtime, status.st_size, path))
                elif status.st_mtime < time.time() - _UNFINISHED_SECONDS:
                    path.unlink(missing_ok=True)
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total > self._max_bytes and path.name != newest:
                    path.unlink(missing_ok=True)
                    total -= size
        except OSError:
            return  # another process dropped the same
