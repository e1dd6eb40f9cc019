"""Ready means that it can infer: a worker that no longer does is found out and replaced, whatever broke it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import FeatureInput
from tests.registries import publish
from tests.running import Service, serving
from tests.waiting import wait_until


class Fragile(nn.Module):
    """Whether the first feature is positive, until 666 sets its weight to zero; 667 harms the device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        first = features[:, 0]
        if bool((first == 667).any()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if bool((first == 666).any()):
            self.weight.zero_()
        return torch.stack((-first, first), dim=1) * self.weight


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("registry")
    publish(root, "sign", Fragile(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    options = ("--selftest-seconds", "0.3", "--http-processes", "1", "--timeout-seconds", "60")
    with serving(root, *options, traced=False) as service:
        yield service
        assert service.stop() == 0, service.text


def ask(service: Service, first: float) -> httpx.Response:
    return service.client.post("/predict", json={"features": [[first, 0.0]]})


def wait_until_ready(service: Service) -> None:
    wait_until(lambda: service.client.get("/readyz").status_code == 200, 60, otherwise=lambda: service.text)


def test_zeroed_weights_turn_readyz_to_503_and_the_worker_is_replaced(fragile: Service) -> None:
    before = fragile.wait_for_metric(1, "inference_selftest_total", model="sign", result="ok")
    (worker,) = fragile.processes("worker")

    assert ask(fragile, 666).status_code == 200
    wait_until(lambda: fragile.client.get("/readyz").status_code == 503, 60, interval=0.005)
    wait_until_ready(fragile)

    assert before >= 1
    assert ask(fragile, 1).json()["predictions"][0]["label"] == "positive"
    assert fragile.processes("worker") != [worker]
    assert "sign@1 has passed before and must pass again. Given: sign@1: golden logits" in fragile.text
    assert fragile.wait_for_metric(1, "inference_selftest_total", model="sign", result="failed") == 1
    assert fragile.wait_for_metric(1, "inference_worker_restarts_total", reason="selftest") == 1


def test_an_input_that_breaks_the_device_fails_alone_and_ends_one_worker(fragile: Service) -> None:
    before = fragile.metric_at_rest("inference_worker_restarts_total", reason="crashed")

    answer = ask(fragile, 667)

    assert answer.status_code == 500
    assert answer.json()["detail"] == "the model must compute the input. Given: one that it fails on"
    fragile.wait_for_log(r"the device must compute\. Given: ")
    wait_until_ready(fragile)
    assert ask(fragile, -1).json()["predictions"][0]["label"] == "negative"
    assert fragile.metric_at_rest("inference_worker_restarts_total", reason="crashed") == before + 1
