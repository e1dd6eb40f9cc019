"""The service's processes: how they start, die, come back and stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from service.api.keys import make
from service.contract.registry import Registry
from service.engine.quarantine import Quarantine
from service.processes.http_process import HTTPProcess, Paths
from service.settings import Settings
from tests import pictures
from tests.processes import still_running
from tests.registries import Slow, publish
from tests.running import Service, serving, start
from tests.waiting import wait_until


@pytest.fixture
def slow_registry(tmp_path: Path) -> Path:
    publish(tmp_path, "slow", Slow())
    return tmp_path


@pytest.fixture
def slow(slow_registry: Path) -> Iterator[Service]:
    # A batch of one, so that several requests mean several seconds of work.
    with serving(slow_registry, "--max-batch-size", "1", "--timeout-seconds", "60") as service:
        yield service


def send_in_background(
    pool: concurrent.futures.Executor, service: Service, number: int
) -> list[concurrent.futures.Future[httpx.Response]]:
    """`number` requests, all of them accepted by the service when this returns."""
    sent = [pool.submit(service.predict, pictures.row_png(i % 10)) for i in range(number)]
    # The first may have been answered before the last is counted: processes tell their numbers four times a second.
    accepted = ("inference_queue_depth", "inference_images_total")
    wait_until(lambda: sum(service.metric(name) for name in accepted) >= number)
    return sent


def classes(answers: list[concurrent.futures.Future[httpx.Response]]) -> list[int]:
    return [answer.result().json()["predictions"][0]["class_id"] for answer in answers]


def test_a_signal_finishes_what_was_accepted_and_leaves_no_process(slow: Service) -> None:
    family = psutil.Process(slow.process.pid).children(recursive=True)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = send_in_background(pool, slow, 4)
        code = slow.stop(signal.SIGTERM)

    assert classes(answers) == [0, 1, 2, 3]
    assert code == 0
    assert not still_running(family)
    assert " ERROR " not in slow.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_as_from_a_terminal_or_systemd_ends_in_the_same_calm(
    slow: Service, number: signal.Signals
) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = send_in_background(pool, slow, 2)
        for _ in range(2):  # as the impatient do
            os.killpg(slow.process.pid, number)
            slow.wait_for_log("draining")
        code = slow.wait()

    assert classes(answers) == [0, 1]
    assert code == 0
    assert not re.search("Traceback| ERROR | WARNING ", slow.text)


def test_ctrl_c_while_workers_still_start_ends_the_service_at_once(slow_registry: Path) -> None:
    service = Service(slow_registry)
    try:
        service.wait_for_log("listening on")
        os.killpg(service.process.pid, signal.SIGINT)

        assert service.wait() == 0
        assert not re.search("Traceback| ERROR ", service.text)
    finally:
        service.close()


def test_requests_that_a_killed_worker_held_are_answered_by_the_next(slow: Service) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = send_in_background(pool, slow, 3)
        for worker in slow.processes("worker"):
            worker.kill()

        assert classes(answers) == [0, 1, 2]
    # The other HTTP process may still be connecting to the new worker.
    wait_until(lambda: slow.client.get("/readyz").status_code == 200)


def test_readyz_says_no_while_there_is_no_worker(slow: Service) -> None:
    (worker,) = slow.processes("worker")

    worker.kill()
    slow.wait_for_log("worker 0 .* ended with code -9")

    answer = slow.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_a_killed_http_process_is_replaced_and_its_counts_stay(registry: Path) -> None:
    with serving(registry, "--default-model", "rows", "--http-processes", "2") as service:
        for _ in range(20):
            httpx.post(f"{service.url}/predict", content=pictures.row_png(1), headers={"content-type": "image/png"})
        before = service.metric_at_rest("inference_requests_total", code="200")
        service.client.close()

        for process in service.processes("http")[:1]:
            process.kill()
        service.wait_for_log("HTTP process . .* ended with code -9")

        answer = httpx.post(
            f"{service.url}/predict", content=pictures.row_png(2), headers={"content-type": "image/png"}, timeout=30
        )
        assert answer.json()["predictions"][0]["class_id"] == 2
        service.client = httpx.Client(base_url=service.url, timeout=30)
        assert service.wait_for_metric(before + 1, "inference_requests_total", code="200") == before + 1
        assert len(service.processes("http")) == 2


@pytest.mark.fakes
def test_an_http_process_shows_life_while_every_thread_waits_for_a_registry_that_hangs(tmp_path: Path) -> None:
    class Beats:
        def __init__(self) -> None:
            self.number = 0

        def other_beat(self, _number: int, _now: float) -> None:
            self.number += 1

    heartbeats, keys = Beats(), tmp_path / "keys"
    keys.write_text("none\n")
    settings = Settings(api_keys_file=str(keys), http_processes=1)
    paths = Paths([], [], "")
    (tmp_path / "run").mkdir()
    observer: Any = SimpleNamespace(block_answered=None, drift=None, flush=lambda _: None)
    process = HTTPProcess(settings, heartbeats, observer, Quarantine(tmp_path / "deaths"), paths, tmp_path / "run")  # type: ignore[arg-type]
    go = threading.Event()

    async def story() -> None:
        reading = [asyncio.create_task(asyncio.to_thread(go.wait, 30)) for _ in range(40)]
        housekeeping = asyncio.create_task(process._keep_house())
        keys.write_text(f"{make('ci', frozenset({'predict'}))[1]}\n")
        async with asyncio.timeout(20):
            while heartbeats.number < 5:
                await asyncio.sleep(0.05)
        housekeeping.cancel()
        go.set()
        await asyncio.gather(*reading)

    try:
        asyncio.run(story())
    finally:
        go.set()


def test_children_end_when_the_supervisor_is_killed(registry: Path) -> None:
    with serving(registry, "--default-model", "rows", "--http-processes", "2") as service:
        family = psutil.Process(service.process.pid).children(recursive=True)

        service.process.kill()

        assert not still_running(family)


def test_a_version_that_does_not_match_its_manifest_is_refused_and_the_others_serve(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    publish(tmp_path, "broken", Slow())  # not the bytes of `rows`, which would be found by their digest
    artifact = tmp_path / "broken" / "1" / "model.pt"
    artifact.write_bytes(artifact.read_bytes()[:-1])

    with serving(tmp_path, "--default-model", "rows") as service:
        assert service.predict(pictures.row_png(4)).json()["predictions"][0]["class_id"] == 4
        ready = service.client.get("/readyz").json()
        assert (ready["status"], ready["models"]) == ("ready", {"rows@1": True})
        assert (ready["missing"], ready["refused"]) == ({}, ["broken@1"])
        assert "refused broken@1: broken@1: sha256" in service.text


def test_the_production_alias_is_served_before_the_newest_version(tmp_path: Path) -> None:
    for _ in range(3):
        publish(tmp_path, "rows")
    Registry(tmp_path).set_alias("rows", "production", 2)

    with serving(tmp_path) as service:
        assert service.predict(pictures.row_png(1)).json()["version"] == 2
        assert service.predict(pictures.row_png(1), query="?version=production").json()["version"] == 2


def run(*options: str) -> tuple[int, str]:
    """Run a service that ends by itself; gives its exit code and what it says."""
    process = start([*options], None)
    assert process.stderr
    with process.stderr as stream:
        said = stream.read()
    return process.wait(60), said


def test_a_registry_with_nothing_to_serve_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    code, said = run("--registry", str(tmp_path), "--port", "0")

    assert code == 1
    assert "python -m training train" in said
    assert "Traceback" not in said


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_an_error_and_no_silent_fallback(registry: Path) -> None:
    code, said = run("--registry", str(registry), "--device", "cuda", "--port", "0")

    assert code == 1
    assert "SERVICE_DEVICE=cuda needs a CUDA device. Given: none" in said


def test_a_port_that_is_taken_is_named(registry: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code, said = run("--registry", str(registry), "--port", str(port))

    assert code == 1
    assert str(port) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prot", "1"), "--prot"),
        (("--port", "http"), "--port: "),
        (("--device", "tpu"), "--device: "),
        (("--max-queue", "0"), "--max-queue: "),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(options: tuple[str, ...], message: str) -> None:
    code, said = run(*options)

    assert code == 2
    assert message in said
    assert "Traceback" not in said
