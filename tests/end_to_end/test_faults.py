"""Faults on purpose, in real processes under real load: every request that was sent gets exactly one right answer."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import load
from tests.end_to_end import faults
from tests.registries import publish
from tests.running import Service, serving
from tests.waiting import until

REQUESTS = 10_000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    publish(tmp_path, "rows")
    with serving(tmp_path, "--http-processes", "2", traced=False) as running:
        yield running


async def under_load(
    service: Service, total: int, fault: Callable[[], Awaitable[None]], *, retry_lost: bool = False
) -> load.Tally:
    """The tally of `total` requests, with `fault` happening again and again until they are done."""
    sending = asyncio.create_task(load.send_all(service.port, total, connections=32, retry_lost=retry_lost))
    while not sending.done():
        await fault()
    return sending.result()


async def until_more_are_answered(tally: load.Tally) -> None:
    """Wait for a thousand answers: whoever is killed then was serving, for a service ends whose workers never do."""
    before = tally.right
    await until(lambda: tally.right >= before + 1_000)


def test_workers_killed_in_mid_batch_again_and_again_cost_no_request(service: Service, times: int) -> None:
    async def kill_in_the_middle() -> load.Tally:
        tally = load.Tally()
        sending = asyncio.create_task(load.send_all(service.port, 10**9, connections=32, tally=tally))
        for _ in range(2 * times):
            await until_more_are_answered(tally)
            faults.kill_one(service, "worker")
        await until_more_are_answered(tally)
        tally.stop = True
        await sending
        return tally

    tally = asyncio.run(kill_in_the_middle())

    assert (set(tally.statuses), tally.right, tally.losses, tally.wrong) == ({200}, tally.total, 0, [])
    assert service.stop() == 0


def test_an_http_process_that_is_killed_takes_only_its_own_connections_with_it(service: Service) -> None:
    killed = False

    async def fault() -> None:
        nonlocal killed
        await asyncio.sleep(0.1)
        if not killed:
            faults.kill_one(service, "http")
            killed = True

    tally = asyncio.run(under_load(service, 5_000, fault, retry_lost=True))

    assert killed
    assert (tally.right, tally.wrong) == (5_000, [])
    assert 0 < tally.losses <= 32
    assert len(service.processes("http")) == 2


def test_a_stopped_worker_is_found_by_its_silence_and_replaced_without_losing_a_request(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    with serving(tmp_path, "--hang-seconds", "2", "--timeout-seconds", "60") as service:
        (worker,) = service.processes("worker")

        async def fault() -> None:
            if worker.is_running() and worker.status() != psutil.STATUS_STOPPED:
                worker.suspend()
            await asyncio.sleep(0.2)

        tally = asyncio.run(under_load(service, 2_000, fault))

        assert (tally.right, tally.losses, tally.wrong) == (2_000, 0, [])
        assert "was silent for" in service.text


def test_a_worker_that_dies_at_every_start_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    with serving(tmp_path, "--cache-bytes", "0") as service:
        # From now on nothing in the registry can be loaded, and the worker has no copy to come back from.
        (tmp_path / "rows" / "1" / "model.pt").write_bytes(b"broken")
        faults.kill_one(service, "worker")

        assert service.wait() == 1
        assert "failed to start" in service.text
        assert "sha256" in service.text


def test_sigterm_under_load_answers_all_that_was_accepted(service: Service) -> None:
    async def stop_in_the_middle() -> load.Tally:
        tally = load.Tally()
        sending = asyncio.create_task(load.send_all(service.port, 10**9, connections=32, tally=tally))
        await until(lambda: tally.right >= 2_000)
        service.process.terminate()
        await asyncio.wait([sending])
        return tally

    tally = asyncio.run(stop_in_the_middle())

    assert service.wait() == 0
    assert tally.wrong == []
    assert set(tally.statuses) <= {200}
    # A connection may be closed on a request that was not read; none is closed on one that was.
    assert tally.total - tally.right == tally.losses
    assert service.log.count("Traceback") == 0


def test_a_thousand_idle_connections_keep_nobody_waiting(service: Service) -> None:
    idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(1_000)]

    tally = asyncio.run(load.send_all(service.port, 2_000, connections=16))

    assert tally.right == 2_000
    for connection in idle:
        connection.close()


def test_all_of_many_requests_with_faults_at_random_are_answered_once_each_and_nothing_leaks(
    service: Service, times: int
) -> None:
    requests = REQUESTS * times
    rng = random.Random(1)
    for kind in ("worker", "http", "http"):  # a process that is forked later inherits a few descriptors more
        faults.kill_one(service, kind)
        faults.wait_until_idle(service)
    before = faults.descriptors(service)

    tally = asyncio.run(under_load(service, requests, lambda: faults.at_random(service, rng), retry_lost=True))

    assert (dict(tally.statuses), tally.right, tally.wrong) == ({200: requests}, requests, [])
    assert tally.slowest < 10 + 1  # the deadline and a second
    faults.wait_until_idle(service)
    assert faults.descriptors(service) <= before + 4
    assert service.metric_at_rest("inference_queue_depth") == 0
    assert service.stop() == 0
    assert service.log.count("Traceback") == 0
