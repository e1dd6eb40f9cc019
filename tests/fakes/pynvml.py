"""NVML of a machine with one GPU, for the tests of machines without one; its GPU is called what it is.

Named as NVIDIA's package, so that a service whose PYTHONPATH begins with this folder imports it in its place.
"""

from __future__ import annotations

from types import SimpleNamespace


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return "GPU-that-is-a-fake"


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(used=3 * 2**30, total=4 * 2**30)


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=25, memory=10)
