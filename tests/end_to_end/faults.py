"""What goes wrong on purpose in a running service, and what is looked at afterwards."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import psutil

from tests import load, pictures
from tests.running import Service
from tests.waiting import wait_until

HTTP_PROCESSES = 2
"""How many the service must have been told to keep."""


def kill_one(service: Service, kind: Literal["http", "worker"]) -> None:
    """Kill the process of a kind that has the most connections: one may have taken them all."""
    busiest = sorted(service.processes(kind), key=lambda process: -len(service.sockets(process) or []))
    for process in busiest[:1]:
        process.kill()
        process.wait(5)  # the next request must not go to a connection of the dying process


async def at_random(service: Service, rng: random.Random) -> None:
    """Clients that misbehave for a second and, two to four seconds from now, the death of a process."""
    await asyncio.gather(
        asyncio.sleep(2 + rng.random() * 2), load.misbehave(service.port, 1.0, seed=rng.randrange(1_000))
    )
    kill_one(service, rng.choice(["worker", "worker", "http"]))


def processes(service: Service) -> list[psutil.Process]:
    """The supervisor and its living HTTP processes and workers."""
    return [psutil.Process(service.process.pid), *service.processes("http"), *service.processes("worker")]


def descriptors(service: Service) -> int:
    """Open descriptors of the supervisor and every child."""
    return sum(process.num_fds() for process in processes(service))


def wait_until_idle(service: Service) -> None:
    """Wait until the HTTP processes and the worker are up and no client's connection is left."""

    def is_idle() -> bool:
        http = service.processes("http")
        states = [state for process in http for state in service.sockets(process) or []]
        is_up = len(http) == HTTP_PROCESSES and bool(service.processes("worker"))
        return is_up and states.count(psutil.CONN_ESTABLISHED) <= 1

    wait_until(is_idle, interval=0.1)
    assert service.predict(pictures.row_png(1)).status_code == 200
