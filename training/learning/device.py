"""Which device trains, with how many threads, and what it is called in a manifest."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from training.errors import OptionError


def choose(name: str) -> torch.device:
    """The device that `name` means: cpu, cuda, mps, or auto for the fastest that is there.

    Raises:
        OptionError: it was asked for by name and is not there. A silent fallback would cost hours.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        usable = [device for device, available in there.items() if available]
        raise OptionError(f"device must be one that this machine has: {', '.join(['auto', *usable])}. Given: {name}")
    return torch.device(name)


def has_room_for(device: torch.device, size_bytes: int) -> bool:
    """Whether a dataset of that size can live on `device`: half of what is free there is left to the training."""
    if device.type == "cuda":
        return size_bytes <= torch.cuda.mem_get_info(device)[0] // 2
    if device.type == "mps":
        return size_bytes <= torch.mps.recommended_max_memory() // 2
    return True  # it is in the memory of the CPU already


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for products in bfloat16, with which they take half of the time or less.

    Without them it computes such products all the same, many times as slowly as in float32. ARM is not looked at: what
    they give there was never measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in every torch that may be installed
        there = torch.cpu.get_capabilities()
        return bool(there.get("avx512_bf16") or there.get("amx_bf16"))
    return False


def describe(device: torch.device) -> str:
    """The device in words, e.g. "cuda (NVIDIA H200)" or "cpu (AMD EPYC 9654, 2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({_processor()}, {threads} thread{'s' if threads > 1 else ''})"
    return device.type


@contextlib.contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Compute on `n` CPU threads inside the block, 0 for torch's choice, and on as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Inside the block, this thread takes a number below 1.2e-38 for 0, where the CPU can.

    Adam's averages for a weight that gets no gradient any more, as that of a pixel that is nearly always black, fade
    through such numbers, with which a CPU is slow: they were 0.03 ms of a step of `neural_net`.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> None:
    """From now on, memory that this process frees is its own for the next tensor, where glibc manages it.

    By default a large tensor is mapped for each use, and the kernel clears its pages again and again: that was 15 % of
    the time of a `cifar10` step on the CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
