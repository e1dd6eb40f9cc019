"""A fake of all that `service.model.cuda.Device` asks of torch.cuda, which computes on the CPU at once.

It shows the order in which streams are told things and where memory is used again. It can say nothing of whether CUDA
does as it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class FakeEvent:
    def __init__(self, device: FakeDevice, number: int) -> None:
        self._device = device
        self.name = f"event {number}"

    def record(self) -> None:
        self._device.told.append(f"{self._device.stream}: record {self.name}")

    def wait(self) -> None:
        self._device.told.append(f"{self._device.stream}: wait for {self.name}")

    def query(self) -> bool:
        return self._device.is_idle

    def synchronize(self) -> None:
        if self._device.error:
            raise self._device.error


class FakeDevice:
    """A device whose streams are names, whose memory is the host's, and whose graphs are the work itself."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.stream = "none"
        self.is_idle = True
        self.error: RuntimeError | None = None
        self.capture_error: RuntimeError | None = None
        self.captured = 0
        self.replayed = 0
        self._events = 0

    @contextlib.contextmanager
    def _on(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def computing(self) -> contextlib.AbstractContextManager[None]:
        return self._on("compute")

    def copying(self) -> contextlib.AbstractContextManager[None]:
        return self._on("copy")

    def begin(self) -> None:
        self.told.append("compute: wait for loading")

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        assert self.stream == "compute", "memory must be of the stream that computes"
        return torch.zeros(shape, dtype=dtype)

    def event(self) -> FakeEvent:
        self._events += 1
        return FakeEvent(self, self._events)

    def pool(self) -> str:
        return "pool"

    def capture(self, work: Callable[[], object], pool: str) -> Callable[[], None]:
        if self.capture_error:
            raise self.capture_error
        self.captured += 1

        def replay() -> None:
            assert self.stream == "compute", "graphs must follow each other on the stream that computes"
            self.replayed += 1
            work()

        return replay
