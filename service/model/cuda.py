"""One network's batches on a CUDA device, which computes them on its own. Knows nothing of manifests or classes.

All that computes, of every model and on whatever thread, does so in order on one stream of the device. So graphs may
share their memory and no tensor is freed while another stream uses it. Inputs come through pinned memory on a stream of
their own, while the batch before is computed; logits go back through pinned memory behind their batch.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.model.torchscript import Network

_STEP = 8
"""Sizes that have a graph lie so far apart, and beyond 64 so many to a doubling; a batch in between is filled up."""

_RUNS_BEFORE_CAPTURE = 3
"""TorchScript profiles a size in the first and compiles for it in the second; neither can be captured."""


class Device:
    """All that is asked of torch.cuda, for one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Work is never done on it, only captured: what torch keeps for a stream, such as cuBLAS's workspace, is then
        # used by graphs alone, and these follow each other on the stream that computes.
        self._capture = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """In the block, work is for the stream that computes, and so is the memory that is allocated."""
        return torch.cuda.stream(self._compute)

    def copying(self) -> contextlib.AbstractContextManager[None]:
        """In the block, work is for the stream that brings inputs."""
        return torch.cuda.stream(self._copy)

    def begin(self) -> None:
        """Be the device of this thread, and compute nothing before what it was told so far is done, such as weights."""
        if self._device.index is not None:
            # Or the thread would go back to the first device after each batch, and CUDA take memory there.
            torch.cuda.set_device(self._device)
        self._compute.wait_stream(torch.cuda.current_stream(self._device))

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device reads and writes by itself; to be asked for where it is `computing`."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros on the device."""
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def event(self) -> torch.cuda.Event:
        """A mark on a stream. Who waits for it leaves the processor to others."""
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def pool(self) -> torch.cuda._POOL_HANDLE:
        """Memory for graphs to share, of which never two are computed at a time."""
        return torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], object], pool: torch.cuda._POOL_HANDLE) -> Callable[[], None]:
        """What does all of `work` again, on the same memory, as one step.

        Raises:
            RuntimeError: it cannot be captured, for instance because it waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        # thread_local: a worker goes on computing, and allocating, while its follower captures a new version.
        with torch.cuda.graph(graph, pool=pool, stream=self._capture, capture_error_mode="thread_local"):
            work()
        return graph.replay


@functools.cache
def device_of(device: torch.device) -> Device:
    """The one for `device` in this process."""
    return Device(device)


class _Slot:
    """Memory for one batch of up to `capacity` on its way to the device and back."""

    def __init__(self, device: Device, capacity: int, inputs: Tensor) -> None:
        shape = (capacity, *inputs.shape[1:])
        with device.computing():
            self.host = device.pinned(shape, inputs.dtype)
            self.inputs = device.memory(shape, inputs.dtype)
            self.brought = device.event()
            self.computed = device.event()
            self.computed.record()
        with device.copying():  # not before the stream that the memory is from has done what it was told with it
            self.computed.wait()
        self.logits: Tensor | None = None  # pinned; how many classes there are is known once a batch is computed
        self.capacity = capacity

    def fetch(self, device: Device, logits: Tensor) -> Tensor:
        """Where float32 logits [N, K] will lie on the host: they are brought back behind what computes them."""
        if self.logits is None:
            self.logits = device.pinned((self.capacity, *logits.shape[1:]), logits.dtype)
        fetched = self.logits[: len(logits)].copy_(logits, non_blocking=True)
        self.computed.record()
        return fetched


class Batch:
    """A batch that the device was told to compute."""

    def __init__(self, slot: _Slot, fetched: Tensor, free: list[_Slot]) -> None:
        self._slot = slot
        self._fetched = fetched
        self._free = free

    def ready(self) -> bool:
        """Whether `logits` would not wait.

        Raises:
            RuntimeError: the device failed.
        """
        return bool(self._slot.computed.query())  # type: ignore[no-untyped-call]

    def logits(self) -> npt.NDArray[np.float32]:
        """Wait for it; to be called once.

        Raises:
            RuntimeError: the device failed.
        """
        self._slot.computed.synchronize()
        logits: npt.NDArray[np.float32] = self._fetched.numpy().copy()
        self._free.append(self._slot)
        return logits


class _Graphs:
    """A network captured for batches up to `largest`: the launches of all its kernels are one.

    Inputs of all sizes lie at the same place, and so do their logits.
    """

    def __init__(self, device: Device, network: Network, like: Tensor, largest: int) -> None:
        self._network = network
        self._inputs = device.memory((largest, *like.shape[1:]), like.dtype)
        classes = network(self._inputs).shape[1]
        self._logits = device.memory((largest, classes), torch.float32)
        self._sizes = sizes_to_capture(largest)
        self._replays: dict[int, Callable[[], None]] = {}
        pool = device.pool()
        for size in reversed(self._sizes):  # the smaller ones then fit into the memory of the largest
            work = functools.partial(self._compute, size)
            for _ in range(_RUNS_BEFORE_CAPTURE):
                work()
            self._replays[size] = device.capture(work, pool)

    def _compute(self, size: int) -> None:
        self._logits[:size].copy_(self._network(self._inputs[:size]))

    def __call__(self, inputs: Tensor) -> Tensor | None:
        """The logits, valid until the next call; None if so many inputs have no graph."""
        place = bisect.bisect_left(self._sizes, len(inputs))
        if place == len(self._sizes):
            return None
        self._inputs[: len(inputs)].copy_(inputs)  # behind them lies what an earlier batch left, computed for nobody
        self._replays[self._sizes[place]]()
        return self._logits[: len(inputs)]


class Pipeline:
    """Computes batches of `network` one after the other; the next may be started while one is computed."""

    def __init__(self, network: Network, device: Device) -> None:
        self._network = network
        self._device = device
        self._free: list[_Slot] = []  # as many as batches were ever on their way at a time
        self._graphs: _Graphs | None = None
        device.begin()

    def start(self, inputs: Tensor) -> Batch:
        """Tell the device to compute `inputs`, which may be changed afterwards.

        Raises:
            RuntimeError: the network cannot compute these inputs.
        """
        size = len(inputs)
        # Whatever fails before the end: the slot is not used again, for the device may still be busy with it.
        slot = self._slot(inputs)
        slot.host[:size].copy_(inputs)
        with self._device.copying():
            slot.inputs[:size].copy_(slot.host[:size], non_blocking=True)
            slot.brought.record()
        with self._device.computing():
            slot.brought.wait()
            fetched = slot.fetch(self._device, self._logits(slot.inputs[:size]))
        return Batch(slot, fetched, self._free)

    def _slot(self, inputs: Tensor) -> _Slot:
        slot = self._free.pop() if self._free else None
        if slot is None or slot.capacity < len(inputs):
            slot = _Slot(self._device, 1 << (len(inputs) - 1).bit_length(), inputs)
        return slot

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self._graphs(inputs) if self._graphs else None
        return self._network(inputs).float() if logits is None else logits

    def capture(self, like: Tensor, largest: int) -> None:
        """Compute batches up to `largest`, of inputs such as `like`, by graphs from now on.

        Raises:
            RuntimeError: the network cannot be captured, and is computed as before.
        """
        with self._device.computing():
            self._graphs = _Graphs(self._device, self._network, like, largest)

    def release(self) -> None:
        """Compute without graphs from now on."""
        self._graphs = None


def sizes_to_capture(largest: int) -> list[int]:
    """The batch sizes that get a graph: few, so that loading is quick, and close, so that filling up costs little."""
    sizes, size = [], 1
    while size < largest:
        sizes.append(size)
        size += size if size < _STEP else max(_STEP, (1 << size.bit_length() - 1) // _STEP)
    return [*sizes, largest]
