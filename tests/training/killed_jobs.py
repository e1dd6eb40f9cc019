"""What the tests start in a process of its own: it forks jobs that are killed before their nth write to the registry.

Given a folder and a step, it prints what every such job and the unharmed one after it leave, a JSON object a line. With
a step of 1 it kills before every write.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from service.contract import lock, store
from tests.training.jobs import at_once, job, left, prepare

WRITES = ("makedirs", "pipe_file", "mv", "rm_file", "rm", "open")


def killed_before(nth: int, act: Callable[[], int]) -> int:
    """`act`, in a process that dies before its `nth` write."""
    writes = 0

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal writes
            is_write = method.__name__ != "open" or "x" in str(arguments[1:])
            writes += is_write
            if is_write and writes == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(self, *arguments, **options)

        return counted

    for name in WRITES:
        setattr(LocalFileSystem, name, wrap(getattr(LocalFileSystem, name)))
    return act()


def run(folder: Path, step: int) -> None:
    prepare(folder)
    vars(store)["turn"] = functools.partial(lock.turn, patience_seconds=0.2)
    before, better = folder / "before", ("--seed", "1")
    at_once(lambda: job(before, "--lr", "0.0005"))
    at_once(lambda: job(before, *better, "--registry", str(folder / "away")))  # leaves the checkpoint
    nth, code = 1 - step, -signal.SIGKILL
    while code == -signal.SIGKILL:
        nth += step
        here = folder / str(nth)
        shutil.copytree(before, here)
        whole = functools.partial(job, here, *better)
        (code,) = at_once(functools.partial(killed_before, nth, whole))
        between = left(here)
        (again,) = at_once(whole)
        told = {"nth": nth, "code": code, "between": between, "again": again, "after": left(here)}
        sys.stdout.write(f"{json.dumps(told)}\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
