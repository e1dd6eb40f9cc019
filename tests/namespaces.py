"""A command as the first process of namespaces of its own, which end with the block. Knows nothing about images."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

NEEDED = ("unshare", "setpriv", "mount", "bash")


@contextlib.contextmanager
def entered(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`unshare` around the bash script `script`, which arranges the mounts and then runs a command in its own place.

    What it prints is in its stdout, and it ends with the exit code of the command.
    """
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, "container", *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        try:
            yield started
        finally:
            # --kill-child alone ends nothing here: the kernel forgets that wish when a process changes its user.
            try:
                first_process(started).kill()
            except psutil.NoSuchProcess:
                started.kill()


def first_process(started: subprocess.Popen[str]) -> psutil.Process:
    """The process with the number 1 inside; all others in there end with it."""
    for child in psutil.Process(started.pid).children():
        with contextlib.suppress(FileNotFoundError):
            inside = re.search(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{child.pid}/status").read_text(), re.M)
            if inside is not None and inside[1] == "1":
                return child
    raise psutil.NoSuchProcess(started.pid, msg="it has no first process, or no longer")
