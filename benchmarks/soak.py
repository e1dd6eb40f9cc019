"""Load with faults at random for as long as asked: what the service needs, and how late its slowest answer is.

    python -m benchmarks.soak --minutes 60

Processes are killed and clients misbehave as in tests/end_to_end/test_faults.py, whose load this is. A line each
interval; at the end every request must have got exactly one right answer, or the exit status is 1. Linux alone
reports PSS.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.machine import pss_bytes
from tests import load, running
from tests.end_to_end import faults
from tests.registries import publish
from tests.running import Service, serving

CONNECTIONS = 32


async def soak(service: Service, seconds: float, interval: float, seed: int) -> load.Tally:
    """Load with faults for `seconds`, and a line each `interval`."""
    tally = load.Tally()
    sending = asyncio.create_task(
        load.send_all(service.port, 10**12, connections=CONNECTIONS, retry_lost=True, tally=tally)
    )
    watching = asyncio.create_task(_watch(service, tally, interval))
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not sending.done():
        await faults.at_random(service, rng)
    tally.stop = True
    await sending
    watching.cancel()
    return tally


async def _watch(service: Service, tally: load.Tally, interval: float) -> None:
    print("|   minute | requests/s | slowest ms | lost | wrong | PSS MiB | descriptors |")
    print("|---------:|-----------:|-----------:|-----:|------:|--------:|------------:|")
    begin = time.monotonic()
    before = 0
    while True:
        await asyncio.sleep(interval)
        recent, tally.slowest = tally.slowest, 0.0
        rate, before = (tally.right - before) / interval, tally.right
        try:
            memory, descriptors = pss_bytes(faults.processes(service)) / 2**20, faults.descriptors(service)
        except psutil.NoSuchProcess:
            continue  # one was killed while it was looked at
        print(
            f"| {(time.monotonic() - begin) / 60:8.1f} | {rate:10,.0f} | {recent * 1e3:10,.0f} | {tally.losses:4} "
            f"| {len(tally.wrong):5} | {memory:7,.0f} | {descriptors:11} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--interval", type=float, default=10, help="seconds between two lines")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    arguments = parser.parse_args()
    running.as_commands = True  # a fork of what tests import would have half of its memory counted there

    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), "rows")
        with serving(Path(folder), "--http-processes", str(faults.HTTP_PROCESSES), traced=False) as service:
            tally = asyncio.run(soak(service, arguments.minutes * 60, arguments.interval, arguments.seed))
            faults.wait_until_idle(service)
            depth = service.metric_at_rest("inference_queue_depth")
            status = service.stop()
            bugs = service.log.count("Traceback")
    good = tally.total == tally.right and not tally.wrong and not depth and not status and not bugs
    print(
        f"\n{tally.total:,} requests, {tally.right:,} right, {len(tally.wrong)} wrong; {tally.losses} connections "
        f"lost, whose requests were sent again; {depth:g} images left in the queue, exit code {status}, "
        f"{bugs} tracebacks: {'all is well' if good else 'NOT as it must be'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
