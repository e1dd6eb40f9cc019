"""The findings about versions: a file that a service's workers share and that outlives each of them.

It has a line for each finding: a worker begins to load a version, the version is fit, or it is unfit and why. Lines
that were cut off are passed over, and what cannot be written is not known: at worst a version is tried once more.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service.contract.manifest import ModelManifest, identity

logger = logging.getLogger(__name__)

_DEADLY = 2
"""Workers that die while they load a version before it is considered the cause."""


class _Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    is_: Literal["loading", "fit", "unfit"]
    reason: str = ""
    worker: int


class Verdicts:
    """The findings in the file `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has_any(self) -> bool:
        """Return whether some worker of this service has begun to load a version before."""
        return self._path.exists()

    def is_fit(self, manifest: ModelManifest) -> bool:
        """Return whether some worker serves or has served the version."""
        return any(finding.is_ == "fit" for finding in self._findings(manifest))

    def against(self, manifest: ModelManifest) -> str:
        """Return why the version must not be loaded; empty if nothing is known against it."""
        findings = self._findings(manifest)
        for finding in findings:
            if finding.is_ == "unfit":
                return finding.reason
        died = {finding.worker for finding in findings if not _is_alive(finding.worker)}
        if len(died) >= _DEADLY and not self.is_fit(manifest):
            return f"{manifest.name}@{manifest.version}: loading it must not end the worker. {len(died)} died of it"
        return ""

    def begin(self, manifest: ModelManifest) -> None:
        """Record that this process now loads the version, and may die of it."""
        self._write(manifest, "loading")

    def accept(self, manifest: ModelManifest) -> None:
        """Record that the version is served."""
        self._write(manifest, "fit")

    def refuse(self, manifest: ModelManifest, reason: str) -> None:
        """Record that the version must not be served."""
        self._write(manifest, "unfit", reason)

    def _findings(self, manifest: ModelManifest) -> list[_Finding]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("%s cannot be read, so versions are tried again: %s", self._path, error)
            return []
        version = identity(manifest)
        return [finding for line in lines if (finding := _parsed(line)) and finding.version == version]

    def _write(self, manifest: ModelManifest, is_: Literal["loading", "fit", "unfit"], reason: str = "") -> None:
        finding = _Finding(version=identity(manifest), is_=is_, reason=reason, worker=os.getpid())
        line = finding.model_dump_json().encode()
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # In one write, because other workers append too, and on a line of its own behind one that was cut off.
                os.write(file, b"\n" + line + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            logger.warning("%s cannot be written, so a version may be tried again: %s", self._path, error)


def _parsed(line: bytes) -> _Finding | None:
    """Return the finding in a line, if it has a whole one."""
    try:
        return _Finding.model_validate_json(line)
    except ValidationError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
