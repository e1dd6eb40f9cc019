"""A command in an image's root file system, as an engine would start it, without an engine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.namespaces import entered

COMMAND_SECONDS = 300
# An image as an engine starts it: a /proc, /sys, /tmp and devices of its own, each volume as empty as a new one and
# its folder's owner's; the rest cannot be written, and no privilege is left.
ENTER = """set -e
root=$1 user=$2 folder=$3 volumes=$4; shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
for volume in $volumes; do
    mount -t tmpfs -o "$(stat --format uid=%u,gid=%g,mode=%a "$root$volume")" tmpfs "$root$volume"
done
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all -- env --ignore-environment --chdir="$folder" "$@"
"""


@dataclass(frozen=True)
class Unpacked:
    """An image's root file system and configuration."""

    root: Path
    config: dict[str, Any]

    @contextlib.contextmanager
    def running(self, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """`command` as the first process of a container of the image."""
        user, folder, volumes = self.config["User"], self.config["WorkingDir"], self.config.get("Volumes") or {}
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        where = [str(self.root), user, folder, " ".join(volumes)]
        with entered(ENTER, *where, *variables, *command) as started:
            yield started

    def says(self, *command: str, **environment: str) -> str:
        """What `command` prints in a container; it must end with 0."""
        with self.running(*command, **environment) as started:
            said, _ = started.communicate(timeout=COMMAND_SECONDS)
        if started.returncode:
            sys.exit(f"{' '.join(command)[:60]} must end with 0. Given: {started.returncode}: {said}")
        return said.strip()
