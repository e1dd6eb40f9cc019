"""The findings about versions: a file that a service's workers share and that outlives each of them.

It has a line for each finding: a worker begins to load a version, the version is fit, or it is unfit and why.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.contract.manifest import ModelManifest, identity

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
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        version = identity(manifest)
        return [finding for line in lines if (finding := _Finding.model_validate_json(line)).version == version]

    def _write(self, manifest: ModelManifest, is_: Literal["loading", "fit", "unfit"], reason: str = "") -> None:
        finding = _Finding(version=identity(manifest), is_=is_, reason=reason, worker=os.getpid())
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, finding.model_dump_json().encode() + b"\n")  # in one write, because other workers append too
        finally:
            os.close(file)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
