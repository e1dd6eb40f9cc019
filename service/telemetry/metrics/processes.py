"""CPU time, memory and file descriptors of the service's processes, by role, read from /proc when they are asked for.

Linux only: elsewhere there are none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.telemetry.metrics import families
from service.telemetry.metrics.families import Gauge

_CHILDREN = {"http": "decoder", "worker": "prober"}
"""The role of the processes that one of a role starts by itself."""


class Usage(NamedTuple):
    """What a process uses, or several together."""

    cpu_seconds: float
    waited_cpu_seconds: float  # of its children that have ended
    memory_bytes: int
    descriptors: int


class Processes:
    """The processes that the supervisor starts, by name (`http-0`), and the supervisor; make it before the forks."""

    def __init__(self, names: list[str], proc: Path = Path("/proc")) -> None:
        self._names = names
        self._pids = multiprocessing.get_context("spawn").RawArray("i", len(names))  # all processes see what is set
        self._proc = proc

    def started(self, name: str, pid: int | None) -> None:
        """Note the process that has a name from now on."""
        self._pids[self._names.index(name)] = pid or 0

    def gauges(self) -> Iterator[Gauge]:
        """Yield the usage of each living process, and of those together that it has started itself."""
        for name, pid in zip(self._names, self._pids, strict=True):
            if not pid or (own := self._usage(pid)) is None:
                continue
            role = name.partition("-")[0]
            yield from _gauges(role, name, own)
            if role in _CHILDREN:
                children = [usage for child in self._children(pid) if (usage := self._usage(child))]
                # With those that have ended, so that it never goes back while the parent lives.
                cpu_seconds = own.waited_cpu_seconds + sum(c.cpu_seconds + c.waited_cpu_seconds for c in children)
                memory = sum(child.memory_bytes for child in children)
                together = Usage(cpu_seconds, 0.0, memory, sum(child.descriptors for child in children))
                yield from _gauges(_CHILDREN[role], name, together)

    def _usage(self, pid: int) -> Usage | None:
        folder = self._proc / str(pid)
        try:
            # Behind the name, which may hold anything: proc_pid_stat(5) counts it as field 2.
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            user, system, child_user, child_system = map(int, fields[11:15])
            pages = int((folder / "statm").read_bytes().split()[1])
            descriptors = len(os.listdir(folder / "fd"))  # noqa: PTH208 - a Path for each would take longer
        except (OSError, IndexError, ValueError):  # it has ended, or there is no /proc
            return None
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        return Usage((user + system) / ticks, (child_user + child_system) / ticks, pages * page, descriptors)

    def _children(self, pid: int) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(child) for child in (self._proc / f"{pid}/task/{pid}/children").read_bytes().split()]
        return []


def _gauges(role: str, name: str, usage: Usage) -> Iterator[Gauge]:
    labels = (role, name)
    yield families.PROCESS_CPU, labels, usage.cpu_seconds
    yield families.PROCESS_MEMORY, labels, usage.memory_bytes
    yield families.PROCESS_DESCRIPTORS, labels, usage.descriptors
