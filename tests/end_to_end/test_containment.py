"""A model that ends or holds up its process harms nobody else, and is served no more when it goes on doing so."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import FeatureInput
from service.engine.quarantine import LIMITS
from tests.ports import free_port
from tests.preloaded import COMMAND
from tests.registries import FirstFeature, publish
from tests.running import Service, serving
from tests.waiting import wait_until

CLASSES = ("negative", "positive")
PAIR = FeatureInput(shape=(2,))
CRASH, HANG = 666, 667


class Deadly(nn.Module):
    """Whether the first feature is positive; 666 ends the process and 667 never ends."""

    def forward(self, features: Tensor) -> Tensor:
        first = features[:, 0]
        if bool((first == 666).any()):
            zero = features.flatten()[:1].long() * 0  # a constant would be folded when it is loaded
            least = zero - 9223372036854775807 - 1
            first = first + torch.div(least, zero - 1, rounding_mode="trunc")  # SIGFPE
        total = torch.zeros([1])
        while bool((first == 667).any()) and bool(total < 1):
            total = total * 0
        return torch.stack((-first, first), dim=1) + total


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "deadly", Deadly(), spec=PAIR, classes=CLASSES)
    publish(tmp_path, "good", FirstFeature(), spec=PAIR, classes=CLASSES)
    return tmp_path


OPTIONS = ("--default-model", "good", "--http-processes", "1", "--poll-seconds", "0.3")


@pytest.fixture
def service(root: Path) -> Iterator[Service]:
    with serving(root, *OPTIONS, traced=False) as running:
        yield running
        assert running.stop() == 0, running.text


def ask(service: Service, *features: float, model: str = "deadly") -> httpx.Response:
    rows = [[feature, float(i)] for i, feature in enumerate(features)]
    return httpx.post(f"{service.url}/predict?model={model}", json={"features": rows}, timeout=60)


def test_an_image_that_ends_its_process_fails_alone_and_a_model_that_goes_on_so_is_quarantined(
    service: Service, root: Path
) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        innocent = [pool.submit(ask, service, 1.0, -1.0, model=name) for name in ("deadly", "good") * 20]
        guilty = ask(service, CRASH)
    among_others = ask(service, 1, CRASH, -1)
    while not service.client.get("/readyz").json()["quarantined"]:
        ask(service, *[CRASH] * len(service.log))  # other images than before
    quarantined = ask(service, 1)

    assert {answer.result().status_code for answer in innocent} == {200}
    assert (guilty.status_code, guilty.json()["detail"]) == (
        500,
        "the model must compute the input. Given: one that it ends its process on",
    )
    entries = among_others.json()["predictions"]
    assert [entry.get("label") for entry in entries] == ["positive", None, "negative"]
    assert (quarantined.status_code, quarantined.headers["retry-after"]) == (503, "30")
    reason = f"it ended {LIMITS['image']} processes within 60 s; publish another version"
    assert quarantined.json()["detail"] == f"deadly@1 must not be in quarantine. Given: {reason}"
    state = service.client.get("/readyz").json()
    assert (state["status"], state["models"]) == ("ready", {"good@1": True})
    assert state["quarantined"] == {"deadly@1": reason}
    index = service.client.post("/v2/repository/index").json()
    assert {"name": "deadly", "version": "1", "state": "UNAVAILABLE", "reason": reason} in index
    assert service.wait_for_metric(1, "inference_model_quarantined", model="deadly") == 1
    assert service.metric("inference_model_quarantined", model="good") == 0
    assert ask(service, 1, model="good").status_code == 200

    publish(root, "deadly", FirstFeature(), spec=PAIR, classes=CLASSES)

    wait_until(lambda: ask(service, CRASH).status_code == 200)
    assert service.client.get("/readyz").json()["models"] == {"deadly@2": True, "good@1": True}


def test_a_model_of_its_own_worker_that_hangs_holds_up_no_other(root: Path) -> None:
    with (
        serving(root, *OPTIONS, "--isolation", "model", "--hang-seconds", "5", traced=False) as service,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert len(service.processes("worker")) == 2
        hanging = pool.submit(ask, service, HANG)
        wait_until(
            lambda: service.metric("inference_queue_depth", model="deadly") == 1,
            otherwise=lambda: (hanging.done() and hanging.result().text, service.text),
        )

        answers = [ask(service, 1, model="good") for _ in range(10)]

        assert not hanging.done()
        assert {answer.status_code for answer in answers} == {200}
        assert hanging.result().status_code == 500
        assert ask(service, -1).json()["predictions"][0]["label"] == "negative"
        assert service.metric_at_rest("inference_worker_restarts_total", reason="hung") == 1
        assert service.stop() == 0


def test_a_service_without_standard_streams_serves(root: Path) -> None:
    port = free_port()
    command = [*COMMAND, "--registry", str(root), "--port", str(port), *OPTIONS]
    process = subprocess.Popen(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    try:
        wait_until(lambda: _is_ready(port), 90)
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"features": [[1.0, 0.0]]}, timeout=30)
    finally:
        process.terminate()

    assert answer.json()["predictions"][0]["label"] == "positive"
    assert process.wait(30) == 0


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
