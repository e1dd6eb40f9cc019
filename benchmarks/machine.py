"""Where a benchmark ran, and what processes took of it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil


def describe() -> str:
    """Cores, processor and versions, in a line."""
    import torch  # here, because its pages would be shared with a service that is measured

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Python {platform.python_version()}, torch {torch.__version__}"


def busy_seconds() -> float:
    """Return the CPU seconds of the whole machine but this process and the children it has waited for."""
    times = psutil.cpu_times()
    own = os.times()
    return float(sum(times[:8]) - times.idle - times.iowait - times.steal - sum(own[:4]))


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the memory of processes together, what they share counted once. Linux alone tells it."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def sharing_torch(but: Iterable[psutil.Process]) -> int:
    """Return how many other processes have torch's library in memory, whose pages PSS divides among all of them."""
    spec = importlib.util.find_spec("torch")
    library = str(Path(spec.origin).parent / "lib" / "libtorch_cpu.so") if spec and spec.origin else ""
    others = {process.pid for process in psutil.process_iter()} - {process.pid for process in but}
    found = 0
    for pid in others:
        with contextlib.suppress(OSError):
            found += library in Path(f"/proc/{pid}/maps").read_text()
    return found
