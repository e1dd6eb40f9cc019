"""What was freed between what is in use goes back to the system."""

from __future__ import annotations

import ctypes
import os

import pytest

from service.memory import return_freed_memory
from service.rollout.sandbox import memory_of


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_is_returned_although_something_behind_it_is_in_use() -> None:
    blocks = [bytearray(b"x" * 60_000) for _ in range(1_000)]
    in_use = blocks[::50]
    blocks.clear()
    before = memory_of(os.getpid())
    return_freed_memory()
    assert before - memory_of(os.getpid()) > 30_000_000
    assert all(block == b"x" * 60_000 for block in in_use)


def test_another_c_library_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    return_freed_memory()
