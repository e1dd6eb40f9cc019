from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import pytest
import torch

from training.errors import OptionError
from training.learning.device import choose, cpu_threads, describe, has_bfloat16, no_denormals


@pytest.fixture
def without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("without_accelerator")
@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error_and_not_a_silent_fallback(name: str) -> None:
    with pytest.raises(OptionError, match=f"device must be one that this machine has: auto, cpu. Given: {name}"):
        choose(name)


@pytest.mark.usefixtures("without_accelerator")
def test_auto_is_the_cpu_where_there_is_nothing_faster() -> None:
    assert choose("auto") == torch.device("cpu")


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert choose("auto") == torch.device("cuda", 0)  # tensors on it are on cuda:0, which is not torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, False),
    ],
    ids=["avx512", "avx512_bf16", "amx", "arm"],
)
def test_a_cpu_has_bfloat16_when_its_instructions_say_so(
    capabilities: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert has_bfloat16(torch.device("cpu")) is expected


def test_a_torch_that_cannot_tell_and_a_device_never_measured_have_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")

    assert not has_bfloat16(torch.device("cpu"))
    assert not has_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_would_emulate_bfloat16_does_not_have_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)

    assert has_bfloat16(torch.device("cuda")) is native


def test_the_cpu_is_described_with_its_threads() -> None:
    assert re.fullmatch(r"cpu \(.+, 1 thread\)", describe(torch.device("cpu")))


def test_threads_are_put_back_as_they_were() -> None:
    before = torch.get_num_threads()

    with cpu_threads(2):
        inside = torch.get_num_threads()

    assert (inside, torch.get_num_threads()) == (2, before)


NEW_PAGES = """
import resource, torch
from training.learning.device import keep_freed_memory

def new_pages_of_five_large_tensors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(10_000_000)  # 40 MB, 9,766 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def least_of_some_rounds():  # the first ones, and a heap that something small has split, take new pages all the same
    return min(new_pages_of_five_large_tensors() for _ in range(6))

print(least_of_some_rounds())
keep_freed_memory()
print(least_of_some_rounds())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs the GNU C library")
def test_memory_that_was_freed_is_taken_again_without_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_PAGES], check=True, capture_output=True, text=True)

    given_back, kept = map(int, done.stdout.split())

    assert given_back > 40_000
    assert kept < 1000


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot")
def test_denormal_numbers_are_zero_inside_the_block_and_there_again_after_it() -> None:
    tiny = torch.tensor([1e-30])

    with no_denormals():
        inside = tiny * 1e-10
    after = tiny * 1e-10

    assert inside.item() == 0
    assert after.item() > 0
