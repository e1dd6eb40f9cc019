"""Stand-ins for CUDA at two levels, because no GPU is needed to see in which order it would be told what.

`FakeDevice` stands for `service.model.cuda.Device` and computes on the CPU at once, so that batches give real logits.
`fake_torch_cuda` lies below that: the real `Device` runs on torch's fake tensors, which compute nothing but refuse
operands that lie on different devices. Neither can show whether CUDA does as it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from service.model.cuda import Pipeline


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def query(self) -> bool:
        self._device.told.append("query")
        return self._device.is_idle

    def synchronize(self) -> None:
        if self._device.error:
            raise self._device.error


class FakeDevice:
    """A device whose memory is the host's and whose graphs are the work itself."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_idle = True
        self.error: RuntimeError | None = None
        self.capture_error: RuntimeError | None = None
        self.captured = 0

    def enter(self) -> None:
        pass

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.told.append("pin")
        return torch.zeros(shape, dtype=dtype)

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def to_device(self, inputs: Tensor) -> Tensor:
        if self.error:
            raise self.error
        return inputs.clone()

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def record(self, event: FakeEvent) -> None:
        del event
        self.told.append("record")

    def pool(self) -> str:
        return "pool"

    def capture(self, work: Callable[[], object], pool: str) -> Callable[[], None]:
        del pool
        if self.capture_error:
            raise self.capture_error
        self.captured += 1

        def replay() -> None:
            self.told.append("replay")
            work()

        return replay


def pipeline_on(device: FakeDevice, network: Callable[[Tensor], Tensor]) -> Pipeline:
    """Return a pipeline that believes to be on a GPU."""
    return Pipeline(network, device)  # type: ignore[arg-type] # FakeDevice does what Device does


def fake_torch_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace those parts of torch.cuda that need a driver; returns what the streams are told from now on."""
    told: list[str] = []
    current = ["default"]

    class Stream:
        names = iter(("compute", "capture"))

        def __init__(self, device: torch.device) -> None:
            del device
            self.name = next(Stream.names)

        def wait_stream(self, other: str) -> None:
            told.append(f"{self.name} waits for {other}")

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking, "a thread that waits must leave the processor to others"

        def record(self, stream: Stream) -> None:
            told.append(f"record on {stream.name}")

        def query(self) -> bool:
            return True

    class Graph:
        def replay(self) -> None:
            told.append(f"replay on {current[0]}")

    @contextlib.contextmanager
    def graph(_: Graph, *, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert (pool, stream.name, capture_error_mode) == ("pool", "capture", "thread_local")
        told.append("capture")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.__setitem__(0, stream.name))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.append(f"set {device}"))
    return told
