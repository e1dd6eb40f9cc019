"""The step of training as a CUDA graph: one launch in place of hundreds, kept where that measures faster.

A small network computes a step in less time than Python needs to launch it. Knows nothing about epochs or data.
Method: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from training.learning.distributed import World
from training.learning.step import EagerStep, Step

WARM_UP, TIMED = 11, 10
"""Steps of a shape that run as they are, which a capture needs, and steps whose median time is compared."""

logger = logging.getLogger(__name__)


def fastest_step(eager: EagerStep, device: torch.device, world: World) -> Step:
    """Return `eager`, or on a CUDA device that trains alone a step that may become a graph."""
    return GraphedStep(eager, device) if device.type == "cuda" and world.size == 1 else eager


class GraphedStep:
    """A step that tries a CUDA graph for each shape of its batches while it trains on them.

    A shape's first steps are eager and timed at the end, the next ones replay a graph and are timed too; then the
    faster way is kept. A shape that is too rare for that, such as that of an epoch's last batch, stays eager.
    """

    def __init__(
        self, eager: EagerStep, device: torch.device, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._eager, self._device, self._clock = eager, device, clock
        self._side = torch.cuda.Stream(device)
        self._chosen: dict[torch.Size, Step] = {}
        self._graphs: dict[torch.Size, _Graph] = {}
        self._seconds: dict[torch.Size, list[float]] = {}  # of a shape's steps until its way is chosen
        self._fails = False

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch."""
        shape = inputs.shape
        chosen = self._eager if self._fails else self._chosen.get(shape)
        return chosen(inputs, labels) if chosen else self._try(shape, inputs, labels)

    def _try(self, shape: torch.Size, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        seconds = self._seconds.setdefault(shape, [])
        if len(seconds) == WARM_UP + TIMED:
            self._capture(shape, inputs, labels)
        step = self._graphs.get(shape, self._eager_on_the_side)
        torch.cuda.synchronize(self._device)
        started = self._clock()
        trained = step(inputs, labels)
        torch.cuda.synchronize(self._device)
        seconds.append(self._clock() - started)

        if len(seconds) == WARM_UP + 2 * TIMED:
            self._choose(shape, statistics.median(seconds[WARM_UP:-TIMED]), statistics.median(seconds[-TIMED:]))
        return trained

    def _eager_on_the_side(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            trained = self._eager(inputs, labels)
        current.wait_stream(self._side)
        return trained

    def _capture(self, shape: torch.Size, inputs: Tensor, labels: Tensor) -> None:
        try:
            self._graphs[shape] = _Graph(self._eager, inputs, labels, self._side)
        except RuntimeError as error:
            logger.warning("training without CUDA graphs: %s", str(error).partition("\n")[0])
            self._fails = True

    def _choose(self, shape: torch.Size, eager: float, graphed: float) -> None:
        graph = self._graphs.pop(shape, None)
        self._chosen[shape] = graph if graph is not None and graphed < eager else self._eager
        text = "a step of %s took %.2f ms, as a CUDA graph %.2f ms"
        logger.info(text, tuple(shape), eager * 1e3, graphed * 1e3)


class _Graph:
    """A captured step, with the memory that its inputs are copied to."""

    def __init__(self, eager: EagerStep, inputs: Tensor, labels: Tensor, side: torch.cuda.Stream) -> None:
        """Capture a step without taking it."""
        self._inputs, self._labels = inputs.clone(), labels.clone()
        self._graph = torch.cuda.CUDAGraph()
        # The outer block restores the stream after a failure; threads that pin memory must not make it fail.
        capture = torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local")
        with _capturable(eager.optimiser, inputs.device), torch.cuda.stream(side), capture:
            self._trained = eager(self._inputs, self._labels)

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch."""
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self._graph.replay()
        loss, logits = self._trained
        return loss.clone(), logits.clone()  # the next step writes there


@contextlib.contextmanager
def _capturable(optimiser: Optimizer, device: torch.device) -> Iterator[None]:
    """Move the learning rates to the device for good, and let Adam be captured inside the block."""
    groups = optimiser.param_groups
    for group in groups:
        if not isinstance(group["lr"], Tensor):  # else a graph of another shape reads it
            group["lr"] = torch.tensor(group["lr"], device=device)
    adams = [group for group in groups if "capturable" in group]
    try:
        for group in adams:
            group["capturable"] = True
        yield
    finally:  # Adam warns of a step that is capturable and not captured
        for group in adams:
            group["capturable"] = False
