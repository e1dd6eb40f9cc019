"""A network's batches on a CUDA device. Knows nothing about manifests or classes.

Everything that computes, for every model and on every thread, does so in order on one stream of the device. Graphs may
therefore share their memory, and no tensor is freed while another stream uses it.
"""

from __future__ import annotations

import bisect
import functools
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Plain = Literal["pageable", "pinned"]
Path = Literal["pageable", "pinned", "graphs"]
"""Ways for a batch to reach the device and for its logits to come back.

- pageable: `.to(device)` and `.cpu()`, as torch does it; the thread waits until the batch is computed.
- pinned: through memory that the device reads and writes by itself, so that the next batch can be started meanwhile.
- graphs: like pinned, with both copies and all kernels captured as one CUDA graph, which is launched in one step.
"""

_SLOTS = 2
"""Batches that may be underway by graphs: one that is computed, and one that the device finds when it is done."""

_RUNS_BEFORE_CAPTURE = 3
"""TorchScript profiles a size in the first and compiles for it in the second; neither can be captured."""

_FIRST_MIDDLE_AFTER = 16

_SPIN_SECONDS = 0.002
"""So long after its start a batch is waited for without sleeping, because waking up would cost tens of microseconds."""


class Batch(Protocol):
    """A batch that the device was told to compute."""

    def ready(self) -> bool:
        """Return whether `logits` would return at once.

        Raises:
            RuntimeError: the device failed.
        """
        ...

    def logits(self) -> npt.NDArray[np.float32]:
        """Wait for the logits [N, K]; to be called once.

        Raises:
            RuntimeError: the device failed.
        """
        ...


def start(device: torch.device) -> None:
    """Start CUDA in this process if `device` is one of its devices."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Device:
    """Everything that is asked of torch.cuda, for one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._compute = torch.cuda.Stream(device)
        # No work is done on it, only captured: what torch keeps for a stream, such as cuBLAS's workspace, is then used
        # by graphs alone, and these follow each other on the stream that computes.
        self._capture = torch.cuda.Stream(device)
        self._entered = threading.local()

    def enter(self) -> None:
        """Make this thread work on the stream that computes, after what it did on another one, such as load weights.

        It stays there, because entering a stream for each batch would cost several microseconds.
        """
        if getattr(self._entered, "is_done", False):
            return
        if self._device.index is not None:
            torch.cuda.set_device(self._device)
        self._compute.wait_stream(torch.cuda.current_stream(self._device))
        torch.cuda.set_stream(self._compute)
        self._entered.is_done = True

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device reads and writes by itself."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros on the device."""
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def to_device(self, inputs: Tensor) -> Tensor:
        """Copy `inputs`; where they are pinned, without waiting for the copy."""
        return inputs.to(self._device, non_blocking=True)

    def event(self) -> torch.cuda.Event:
        """Return a mark on the stream; a thread that waits for it leaves the processor to others."""
        return torch.cuda.Event(blocking=True)

    def record(self, event: torch.cuda.Event) -> None:
        """Let `event` mark the end of what the stream was told so far."""
        event.record(self._compute)

    def pool(self) -> torch.cuda._POOL_HANDLE:
        """Memory for graphs to share, because no two of them ever run at a time."""
        return torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], object], pool: torch.cuda._POOL_HANDLE) -> Callable[[], None]:
        """Return a function that does all of `work` again, on the same memory, in one launch.

        Raises:
            RuntimeError: it cannot be captured, for instance because it waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        # thread_local: a worker continues to compute, and to allocate, while another thread captures a new version.
        with torch.cuda.graph(graph, pool=pool, stream=self._capture, capture_error_mode="thread_local"):
            work()
        return graph.replay


@functools.cache
def device_of(device: torch.device) -> Device:
    """Return this process's `Device` for `device`."""
    return Device(device)


class _Slot:
    """Pinned memory for one batch of up to `capacity` inputs, and for its logits."""

    def __init__(self, device: Device, inputs: Tensor, capacity: int, classes: int) -> None:
        self.inputs = device.pinned((capacity, *inputs.shape[1:]), inputs.dtype)
        self.logits = device.pinned((capacity, classes), torch.float32)
        self.computed = device.event()
        self.capacity = capacity


class _Underway:
    """A batch whose logits the device will write into pinned memory."""

    def __init__(self, slot: _Slot, size: int, free: list[_Slot]) -> None:
        self._slot = slot
        self._size = size
        self._free = free
        self._started = time.perf_counter()

    def ready(self) -> bool:
        return bool(self._slot.computed.query())

    def logits(self) -> npt.NDArray[np.float32]:
        while not self.ready():
            if time.perf_counter() - self._started > _SPIN_SECONDS:
                self._slot.computed.synchronize()
                break
        logits: npt.NDArray[np.float32] = self._slot.logits[: self._size].numpy().copy()
        self._free.append(self._slot)
        return logits


class _Computed:
    """A batch whose logits are on the host already."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def ready(self) -> bool:
        return True

    def logits(self) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = self._logits.numpy()
        return logits


class _Graphs:
    """A network captured for batches of up to `largest` inputs, for each of a few slots."""

    def __init__(self, device: Device, network: Callable[[Tensor], Tensor], like: Tensor, largest: int) -> None:
        self.largest = largest
        self._network = network
        self._sizes = sizes_to_capture(largest)
        # All slots share the inputs on the device: a batch is copied there after the one before it was computed.
        self._inputs = device.memory((largest, *like.shape[1:]), like.dtype)
        classes = network(self._inputs).shape[1]
        self.free = [_Slot(device, like, largest, classes) for _ in range(_SLOTS)]
        self._replays: dict[tuple[_Slot, int], Callable[[], None]] = {}
        pool = device.pool()
        for size in reversed(self._sizes):  # the smaller ones then fit into the memory of the largest
            for _ in range(_RUNS_BEFORE_CAPTURE):
                network(self._inputs[:size])
            for slot in self.free:
                self._replays[slot, size] = device.capture(functools.partial(self._compute, slot, size), pool)

    def _compute(self, slot: _Slot, size: int) -> None:
        """Bring a batch to the device, compute it and bring the logits back."""
        inputs = self._inputs[:size].copy_(slot.inputs[:size], non_blocking=True)
        slot.logits[:size].copy_(self._network(inputs).float(), non_blocking=True)

    def replay(self, slot: _Slot, size: int) -> None:
        """Compute the batch of `size` inputs in `slot`, filled up with what an earlier batch left behind it."""
        self._replays[slot, self._sizes[bisect.bisect_left(self._sizes, size)]]()


class Pipeline:
    """Computes batches of `network` in order; by pinned memory or graphs the next may be started while one is computed.

    It begins as pageable.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], device: Device) -> None:
        self.path: Path = "pageable"
        self._network = network
        self._device = device
        self._free: list[_Slot] = []  # as many as batches were ever underway at a time
        self._classes = 0  # known once a batch was computed
        self._graphs: _Graphs | None = None
        device.enter()

    def start(self, inputs: Tensor) -> Batch:
        """Tell the device to compute `inputs`, which may be changed afterwards.

        Raises:
            RuntimeError: the network cannot compute these inputs.
        """
        self._device.enter()
        if self._graphs and self._graphs.free and len(inputs) <= self._graphs.largest:
            return self._by_graphs(self._graphs, inputs)
        if self.path == "pageable" or not self._classes:
            return self._pageable(inputs)
        return self._pinned(inputs)

    def _pageable(self, inputs: Tensor) -> Batch:
        logits = self._network(self._device.to_device(inputs)).float().cpu()
        self._classes = logits.shape[1]
        return _Computed(logits)

    # A slot is not used again after a failure, because the device may still be busy with it.

    def _pinned(self, inputs: Tensor) -> Batch:
        size = len(inputs)
        slot = self._free.pop() if self._free else None
        if slot is None or slot.capacity < size:
            slot = _Slot(self._device, inputs, 1 << (size - 1).bit_length(), self._classes)
        host = slot.inputs[:size].copy_(inputs)
        logits = self._network(self._device.to_device(host)).float()
        slot.logits[:size].copy_(logits, non_blocking=True)
        self._device.record(slot.computed)
        return _Underway(slot, size, self._free)

    def _by_graphs(self, graphs: _Graphs, inputs: Tensor) -> Batch:
        slot = graphs.free[-1]
        slot.inputs[: len(inputs)].copy_(inputs)
        graphs.free.pop()
        graphs.replay(slot, len(inputs))
        self._device.record(slot.computed)
        return _Underway(slot, len(inputs), graphs.free)

    def use(self, path: Plain) -> None:
        """Compute by `path`, without graphs, from now on."""
        self.path = path
        self._graphs = None

    def capture(self, like: Tensor, largest: int) -> None:
        """Compute batches of up to `largest` inputs, of the shape and type of `like`, by graphs from now on.

        Larger ones, and those that find as many underway as there are slots, go through pinned memory.

        Raises:
            RuntimeError: the network cannot be captured, and is computed as before.
        """
        self._device.enter()
        self._graphs = _Graphs(self._device, self._network, like, largest)
        self.path = "graphs"


def sizes_to_capture(largest: int) -> list[int]:
    """Return the batch sizes that get a graph.

    Few, so that loading is quick: powers of two and, from 16 on, the middle between two of them, so that less than a
    third of a batch is filled up for nothing.
    """
    powers = [1 << power for power in range(largest.bit_length())]
    middles = [power + power // 2 for power in powers if power >= _FIRST_MIDDLE_AFTER]
    return sorted({size for size in (*powers, *middles) if size < largest} | {largest})
