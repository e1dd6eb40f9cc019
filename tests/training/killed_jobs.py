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

import service.registry
from service.registry import Registry
from training import latency
from training.__main__ import main
from training.report import Report
from training.sources import load

WRITES = ("makedirs", "pipe_file", "mv", "rm_file", "rm", "open")


def job(folder: Path, *options: str) -> int:
    what = ["neural_net", "--data", "digits", "--epochs", "1", "--device", "cpu", "--threads", "1", "--commit", "abc"]
    where = ["--registry", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    return main(["run", *what, *where, "--publish", "--promote-if-better", *options])


def forked(act: Callable[[], int]) -> int:
    """The exit code of `act` in a child, negative for the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(act())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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


def left(folder: Path) -> dict[str, Any]:
    registry = Registry(folder / "models")
    name = "neural_net-digits"
    for version in registry.versions(name):
        registry.artifact(registry.manifest(name, version))
    return {
        "seeds": [registry.manifest(name, version).provenance.seed for version in registry.versions(name)],
        "production": registry.manifest(name, registry.resolve(name)).provenance.seed,
        "history": len(registry.history(name)),
        "decision": registry.decision(name, registry.resolve(name)),
    }


def run(folder: Path, step: int) -> None:
    import torch.utils.tensorboard  # noqa: F401 - here once, and not in every child

    load("digits", "train", folder)
    service.registry.turn = functools.partial(service.registry.turn, patience_seconds=0.2)
    latency.SECONDS = 0.001
    Report.files = lambda self, manifest: {}  # type: ignore[method-assign,assignment] # the pictures take a second
    before, better = folder / "before", ("--seed", "1")
    forked(lambda: job(before, "--lr", "0.0005"))
    forked(lambda: job(before, *better, "--registry", str(folder / "away")))  # leaves the checkpoint
    nth, code = 1 - step, -signal.SIGKILL
    while code == -signal.SIGKILL:
        nth += step
        here = folder / str(nth)
        shutil.copytree(before, here)
        whole = functools.partial(job, here, *better)
        code = forked(functools.partial(killed_before, nth, whole))
        between = left(here)
        again = forked(whole)
        told = {"nth": nth, "code": code, "between": between, "again": again, "after": left(here)}
        sys.stdout.write(f"{json.dumps(told)}\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
