"""CUDA graphs without a GPU: what replaces the functions of torch.cuda records operations and repeats them.

As on a GPU, a capture changes nothing, a replay reads and writes the memory that was captured, and reading a number
while capturing is an error. Streams do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class FakeGraph(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph, on tensors of the CPU."""

    made: list[FakeGraph] = []  # noqa: RUF012 - `graphs` empties it

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replays = 0
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        FakeGraph.made.append(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            # The schema of batch norm does not say that it writes its running averages.
            unsaid = func is aten.native_batch_norm.default and argument.name.startswith("running")
            if (argument.is_write or unsaid) and place < len(args):
                self._before += [(tensor, tensor.clone()) for tensor in tree_leaves(args[place])]
        out = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, out))
        return out

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, before in reversed(self._before):
            tensor.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self._calls:
            again = func(*args, **kwargs)
            if not any(value.alias_info for value in func._schema.returns):  # else it is in place already
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)


class _Stream:
    def __init__(self, *_: object) -> None: ...

    def wait_stream(self, other: _Stream) -> None: ...


@contextlib.contextmanager
def _capture(graph: FakeGraph, *, stream: _Stream, capture_error_mode: str) -> Iterator[None]:
    del stream, capture_error_mode
    try:
        with graph:
            yield
    finally:
        graph.undo()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Replace CUDA's streams and graphs, and return the graphs that are made."""
    replace(monkeypatch)
    FakeGraph.made = []
    return FakeGraph.made


def replace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    patch.setattr(torch.cuda, "graph", _capture)
    patch.setattr(torch.cuda, "Stream", _Stream)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(stream))
    patch.setattr(torch.cuda, "current_stream", lambda device=None: _Stream(device))
    patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
