"""buildah, which builds a Dockerfile without an engine, with its storage below one folder and nothing anywhere else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MIRROR, SUITE = "http://deb.debian.org/debian", "bookworm"  # the Debian that the Dockerfile's base is made of
PACKAGES = "python3,python3-venv,libpython3-dev,ca-certificates"  # with Python.h, as that base has it


class Builder:
    """The images of the Dockerfile in `context`, in storage that is below `work`.

    At the end of the block nothing is mounted, and what a build that was cut off has left is gone.
    """

    def __init__(self, work: Path, context: Path) -> None:
        self._work = work
        self._context = context
        self._temporary = work / "tmp"  # buildah's mounts of type cache are here too
        self._temporary.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        unmount_below(self._work)
        self._said("rm", "--all")
        for left in self._temporary.glob("storage*"):  # layers that were being packed
            shutil.rmtree(left)

    def build(self, target: str, name: str, options: Sequence[str]) -> None:
        """Build a target, in the format that has health checks; what its steps print goes to stderr."""
        fixed = ["--isolation", "chroot", "--format", "docker", "--layers", "--pull-never"]
        self._run(sys.stderr.fileno(), "build", *fixed, "--target", target, "--tag", name, *options, ".")

    def config(self, image: str) -> dict[str, Any]:
        """The configuration of an image, as an engine would go by."""
        inspected: dict[str, Any] = json.loads(self._said("inspect", "--type", "image", image))
        return dict(inspected["Docker"]["config"])

    @contextlib.contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The root file system of an image."""
        container = self._said("from", "--pull-never", image)
        try:
            yield Path(self._said("mount", container))
        finally:
            self._said("umount", container)
            self._said("rm", container)

    def has(self, image: str) -> bool:
        return image in self._said("images", "--format", "{{.Name}}:{{.Tag}}", "--filter", "dangling=false").split()

    def make_debian(self, image: str) -> None:
        """Tag a Debian with Python as `image`."""
        folder = self._work / "debian"
        try:
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(folder), MIRROR]
            subprocess.run(command, check=True, stdout=sys.stderr)
            subprocess.run(["chroot", str(folder), "apt-get", "clean"], check=True)
            container = self._said("from", "scratch")
            self._said("add", "--quiet", container, str(folder), "/")
            self._said("commit", "--quiet", "--format", "docker", "--rm", container, image)
        finally:
            unmount_below(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _said(self, *arguments: str) -> str:
        return self._run(subprocess.PIPE, *arguments).strip()

    def _run(self, output: int, *arguments: str) -> str:
        command = ["buildah", "--root", str(self._work / "root"), "--runroot", str(self._work / "runroot"), *arguments]
        environment = {**os.environ, "TMPDIR": str(self._temporary)}
        done = subprocess.run(command, cwd=self._context, env=environment, stdout=output, text=True)
        if done.returncode:
            sys.exit(f"buildah {arguments[0]} must succeed. Given: exit code {done.returncode}.")
        return done.stdout or ""


def unmount_below(folder: Path) -> None:
    """Unmount whatever is mounted below `folder`, the last first."""
    mounted = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in reversed(mounted):
        if path.is_relative_to(folder):
            subprocess.run(["umount", str(path)], check=True)
