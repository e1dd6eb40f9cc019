"""The device that trains, its CPU threads, and its name in a manifest."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from training.errors import OptionError


def choose(name: str) -> torch.device:
    """Return the device called `name`: cpu, cuda, mps, or auto for the fastest one available.

    An accelerator carries its index. Tensors on it do too, and torch takes "cuda" and "cuda:0" for different devices.

    Raises:
        OptionError: the device was asked for by name and is not available. A silent fallback would cost hours.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available)
    if not available.get(name, False):
        usable = [device for device, is_available in available.items() if is_available]
        raise OptionError(f"device must be one that this machine has: {', '.join(['auto', *usable])}. Given: {name}")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)


def has_room_for(device: torch.device, size_bytes: int) -> bool:
    """Return whether a dataset of that size fits on `device`, leaving half of the free memory to the training."""
    if device.type == "cuda":
        return size_bytes <= torch.cuda.mem_get_info(device)[0] // 2
    if device.type == "mps":
        return size_bytes <= torch.mps.recommended_max_memory() // 2
    return True  # it is in the memory of the CPU already


def has_bfloat16(device: torch.device) -> bool:
    """Return whether `device` multiplies matrices of bfloat16 faster than those of float32.

    A CPU does with AMX, by its data sheet; nobody has measured it, nor ARM, which counts as not doing it. With
    AVX512_BF16 alone, `cifar10` trained 141 images a second and in float32 233 (two cores of an Intel Xeon, torch
    2.14.1), and without either bfloat16 is emulated, at a fraction of the speed.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in every supported torch
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16"))
    return False


def describe(device: torch.device) -> str:
    """Return the device in words, e.g. "cuda (NVIDIA H200)" or "cpu (AMD EPYC 9654, 2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({_processor()}, {threads} thread{'s' if threads > 1 else ''})"
    return device.type


@contextlib.contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Compute on `n` CPU threads inside the block (0 for torch's default) and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Flush numbers below 1.2e-38 to 0 inside the block, on CPUs that can.

    A weight without a gradient, such as that of a pixel that is nearly always black, has averages in Adam that fade
    through such numbers. CPUs are slow with them: they took 0.03 ms of a step of `neural_net`.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> None:
    """Make this process keep memory that it frees for its next tensor, where glibc manages memory.

    By default glibc maps every large tensor afresh and the kernel clears its pages again and again, which took 15 % of
    a `cifar10` step on the CPU.
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
