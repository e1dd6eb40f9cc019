"""What NVML says of GPUs becomes gauges, and nothing that it lacks or fails at harms anybody."""

from __future__ import annotations

import sys

import pytest

from service.telemetry.metrics import families
from service.telemetry.metrics.gpus import GPUs
from tests.fakes import pynvml


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)


def fail(*_: object) -> None:
    raise pynvml.NVMLError("GPU is lost")


def test_each_gpu_tells_its_memory_and_how_busy_it_is() -> None:
    gauges = GPUs().gauges()

    assert gauges == [
        (families.GPU_MEMORY_USED, ("GPU-that-is-a-fake",), 3 * 2**30),
        (families.GPU_MEMORY_TOTAL, ("GPU-that-is-a-fake",), 4 * 2**30),
        (families.GPU_UTILIZATION, ("GPU-that-is-a-fake",), 0.25),
    ]


def test_without_the_package_there_are_no_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert GPUs().gauges() == []


def test_without_a_driver_there_are_no_gauges_and_nvml_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: (asked.append(1), fail()))  # type: ignore[func-returns-value]
    gpus = GPUs()

    assert gpus.gauges() == gpus.gauges() == []
    assert asked == [1]


def test_memory_is_told_although_utilisation_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", fail)  # so it is for a slice of a GPU

    assert [family.name for family, _, _ in GPUs().gauges()] == [
        "inference_gpu_memory_used_bytes",
        "inference_gpu_memory_total_bytes",
    ]


def test_a_gpu_that_is_lost_is_silent_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = GPUs()
    assert gpus.gauges()

    with monkeypatch.context() as lost:
        lost.setattr(pynvml, "nvmlDeviceGetMemoryInfo", fail)
        assert gpus.gauges() == []

    assert gpus.gauges()


@pytest.mark.gpu
def test_the_real_nvml_knows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml")

    found = {family: value for family, _, value in GPUs().gauges()}

    assert 0 < found[families.GPU_MEMORY_USED] <= found[families.GPU_MEMORY_TOTAL]
