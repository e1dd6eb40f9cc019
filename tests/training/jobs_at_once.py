"""What the tests start in a process of its own: two jobs at once at one registry that is as slow as a bucket.

Given a folder, it prints what they leave, a JSON object a line: first two at the same run, then two at runs of their
own. They publish at the same moment, where they can, and promote at the same moment.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from service.contract.registry import Registry
from tests.training.jobs import at_once, job, left, prepare

CALLS = ("cat_file", "exists", "ls", "makedirs", "mv", "open", "pipe_file", "rm_file")
CALL_SECONDS = (0.01, 0.013)
"""So that the other one comes between any two calls, and the second of the two is the last to write."""


def before(act: Callable[[], None], owner: type, *names: str) -> None:
    """Have `act` done at the beginning of each method of `owner` in `names`."""
    for name in names:
        method = getattr(owner, name)

        @functools.wraps(method)
        def preceded(*arguments: Any, _method: Callable[..., Any] = method, **options: Any) -> Any:
            act()
            return _method(*arguments, **options)

        setattr(owner, name, preceded)


def pair(*jobs: Callable[[], int], patience_seconds: float) -> list[int]:
    """The exit codes of jobs that wait for each other, but for so long only, before they publish and promote."""
    both = get_context("fork").Barrier(len(jobs))
    return at_once(
        *[
            functools.partial(_one, act, both, patience_seconds, call_seconds)
            for act, call_seconds in zip(jobs, CALL_SECONDS, strict=True)
        ]
    )


def _one(act: Callable[[], int], both: Barrier, patience_seconds: float, call_seconds: float) -> int:
    def meet() -> None:
        try:
            both.wait(patience_seconds)
        except BrokenBarrierError:
            return

    before(lambda: time.sleep(call_seconds), LocalFileSystem, *CALLS)
    before(meet, Registry, "publish", "promote")
    return act()


def run(folder: Path) -> None:
    prepare(folder)
    at_once(lambda: job(folder / "others", "--lr", "0.0005"))  # production is worse than what comes
    same = functools.partial(job, folder / "same")
    other = functools.partial(job, folder / "others", "--epochs", "4", "--seed")
    codes = {
        "same": pair(same, same, patience_seconds=1),  # in vain, if one does wait for the end of the other
        "others": pair(lambda: other("1"), lambda: other("2"), patience_seconds=60),  # the first is the better one
    }
    for name, ended in codes.items():
        sys.stdout.write(f"{json.dumps({'codes': ended, **left(folder / name)})}\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
