"""Which code is running: the commit of this repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve()


def commit(file: Path = HERE) -> str:
    """The commit that `file` belongs to, with '-dirty' when tracked files differ from it, or 'unknown'."""
    try:
        # Installed into somebody else's repository, that one's commit would say nothing of this code.
        _git(file, "ls-files", "--error-unmatch", file.name)
        head = _git(file, "rev-parse", "HEAD")
        return f"{head}-dirty" if _git(file, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - ours
