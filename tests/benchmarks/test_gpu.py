"""The GPU benchmark without a GPU: its table, its ways of computing, its refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import service.model.model
from benchmarks import gpu
from service.contract.variants import Form
from service.model.cuda import Pipeline
from tests.registries import publish
from tests.service.model.fake_cuda import FakeDevice, pipeline_on


def test_the_table_says_images_a_second_and_ratios_to_the_first_way() -> None:
    seconds = {1: {"pageable": 0.0004, "overlapped": 0.0001}, 64: {"pageable": 0.0016, "overlapped": 0.002}}

    assert gpu.table(seconds) == (
        "| images/s (µs a batch, times the first) | 1 image in a batch | 64 images in a batch |\n"
        "|---|---:|---:|\n"
        "| pageable | 2,500 (400, 1.00) | 40,000 (1,600, 1.00) |\n"
        "| overlapped | 10,000 (100, 4.00) | 32,000 (2,000, 0.80) |"
    )


def test_every_way_computes_as_many_batches_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the fake device of `service.model.cuda`'s tests; the first way needs none."""
    devices: list[FakeDevice] = []

    def pipeline(network: Callable[[Tensor], Tensor], _: torch.device) -> Pipeline:
        devices.append(FakeDevice())
        return pipeline_on(devices[-1], network)

    monkeypatch.setattr(service.model.model, "_pipeline", pipeline)
    publish(tmp_path)
    ways = gpu.ways_of(str(tmp_path), "rows", Form(), 8)
    before = devices[2].told.count("replay")

    seconds = gpu.seconds_of(ways, 3, batches=2, rounds=3)

    assert list(seconds) == [
        "pageable",
        "service pageable, blocking",
        "service pinned, blocking",
        "service pinned, overlapped",
        "service graphs, blocking",
        "service graphs, overlapped",
    ]
    assert all(each > 0 for each in seconds.values())
    assert devices[2].told.count("replay") - before == 2 * (5 + 3 * 2)
    assert [device.told.count("record") for device in devices[:2]] == [0, 2 * (5 + 3 * 2)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "a CUDA device is needed. Given: none that torch can see\n"
