"""What the service needs when nobody asks: seconds until it is ready, memory, and CPU while it rests.

    python -m benchmarks.footprint

Starts the service with its defaults on the registry of shipped models. PSS counts what processes share once in all of
them together; what they share with others is divided, so end whatever else uses torch first. Linux alone tells it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from benchmarks.machine import describe, pss_bytes, sharing_torch
from tests import running
from tests.running import serving


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """What processes have computed so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--seconds", type=float, default=20, help="of rest")
    arguments = parser.parse_args()
    running.as_commands = True  # a fork of what tests import would have half of its memory counted there

    begin = time.monotonic()
    with serving(arguments.registry, traced=False) as service:
        ready = time.monotonic() - begin
        names = [f"{model['name']}@{model['version']}" for model in service.client.get("/models").json()["models"]]
        service.client.close()
        first = psutil.Process(service.process.pid)
        processes = [first, *first.children(recursive=True)]
        time.sleep(2)  # the first moments after the start are no rest
        before = cpu_seconds(processes)
        time.sleep(arguments.seconds)
        idle = (cpu_seconds(processes) - before) / arguments.seconds
        memory = pss_bytes(processes)
        sharing = sharing_torch(processes)
    print(f"{describe()}; {', '.join(names)}, {len(processes)} processes\n")
    print("| ready after | memory (PSS) | CPU at rest |\n|---:|---:|---:|")
    print(f"| {ready:.1f} s | {memory / 2**20:,.0f} MiB | {idle:.2%} of a core |")
    if sharing:
        print(
            f"\n{sharing} other processes shared torch's pages, so that the service's memory seems smaller than it is."
        )


if __name__ == "__main__":
    main()
