"""A loaded version of a model: load, check, warm up, run. Knows nothing about requests, sockets or the registry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.contract.manifest import ModelManifest, identity, input_bytes
from service.contract.variants import HALF, Form
from service.model import cuda, torchscript
from service.model.outputs import Outputs, Pending

logger = logging.getLogger(__name__)

_HALF_TOLERANCE = 0.05
"""How far logits in half precision may be off, as a share of the largest one of the golden sample."""


class UnfitModelError(Exception):
    """A version that must not serve: it does not load, or does not compute what its manifest promises."""


class DeviceFailedError(Exception):
    """The device can do nothing for this process any more: whatever it is asked next fails too.

    Not a RuntimeError, which says that one batch failed and that another may not.
    """


class Model:
    """A TorchScript module in one form, ready for `run`.

    Raises:
        UnfitModelError: the artifact does not load, or its golden sample comes out wrong.
    """

    def __init__(self, manifest: ModelManifest, artifact: bytes, form: Form | None = None) -> None:
        self.manifest = manifest
        self.form = form or Form()
        self.device = torch.device(self.form.device)
        self.input_bytes = input_bytes(manifest.input)
        self.identity = identity(manifest).encode()
        self._scored = manifest.outliers is not None
        try:
            self._network = torchscript.load(artifact, self.device, self.form.name)
            self._pipeline = _pipeline(self._network, self.device)
            self.prove()
        except torchscript.TorchScriptError as error:
            raise UnfitModelError(f"{self}: {error}") from error

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def batch(self, data: bytearray) -> Tensor:
        """View raw inputs, back to back, as the tensor [N, ...] that `run` takes."""
        spec = self.manifest.input
        return torch.from_numpy(np.frombuffer(data, spec.dtype).reshape(-1, *spec.shape))

    def run(self, inputs: Tensor) -> Outputs:
        """Predict a batch: uint8 [N, C, H, W] or float32 [N, F], as the manifest says.

        Raises:
            RuntimeError: the model cannot compute these inputs.
            DeviceFailedError: it cannot compute any more.
        """
        return self.start(inputs).outputs()

    def start(self, inputs: Tensor) -> Pending:
        """Begin to predict a batch; on the CPU it is computed at once. Any error is raised by `Pending.outputs`."""
        torch.set_num_threads(self.form.threads)  # 0.2 us; models of one worker may want different numbers
        try:
            with torch.inference_mode():
                if self._pipeline:
                    return _Underway(self._pipeline.start(inputs), self._outputs)
                logits, scores = self._network.run(inputs)
                found = logits.float().numpy(), None if scores is None else scores.float().numpy()
        except RuntimeError as error:
            return _Done(error)
        return _Done(Outputs.of(*found, temperature=self.manifest.temperature))

    def _outputs(self, columns: npt.NDArray[np.float32]) -> Outputs:
        """Classify logits [N, K], beside which there is a column of scores if the version gives them."""
        logits, scores = (columns[:, :-1], columns[:, -1]) if self._scored else (columns, None)
        return Outputs.of(logits, scores, temperature=self.manifest.temperature)

    def capture(self, max_batch_size: int) -> None:
        """Compute batches of up to that size by CUDA graphs from now on; there are none on the CPU.

        Raises:
            UnfitModelError: its graphs cannot be made, or give other logits than its golden sample's; it computes
                without them.
        """
        if not self._pipeline:
            raise UnfitModelError(f"{self}: graphs need a CUDA device. Given: {self.device}")
        try:
            with torch.inference_mode():
                self._pipeline.capture(self.batch(bytearray(self.input_bytes)), max_batch_size)
            self.prove()
        except (RuntimeError, UnfitModelError) as error:
            self.use("pageable")
            self.prove()  # the capture may have met a device that failed
            raise UnfitModelError(f"{self}: it must compute by graphs. Given: {error}") from error
        self.form = self.form.model_copy(update={"graphs": True})

    def use(self, path: cuda.Plain) -> None:
        """Bring batches to the device and back by `path`, without graphs, from now on."""
        if self._pipeline:
            self._pipeline.use(path)
        self.form = self.form.model_copy(update={"graphs": False})

    def failed(self) -> Outputs:
        """Return the outputs for one image that the model cannot compute."""
        return self._outputs(np.full((1, len(self.manifest.classes) + self._scored), np.nan, np.float32))

    def prove(self) -> None:
        """Compute the golden sample and compare.

        Raises:
            UnfitModelError: the logits differ by more than the manifest's tolerance (in half precision: by more than
                a twentieth of the largest), or the scores do.
        """
        golden = self.manifest.golden
        expected = np.array(golden.logits, np.float32)
        try:
            outputs = self.run(self.batch(bytearray(golden.raw_inputs())))
        except RuntimeError as error:
            raise UnfitModelError(f"{self}: the golden sample must compute. Given: {error}") from error
        self._compare("logits", outputs.logits, expected)
        self._compare("scores", outputs.scores, np.array(golden.scores, np.float32))

    def _compare(self, what: str, given: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
        tolerance = self.manifest.golden.tolerance
        if what == "scores":  # sums of squares, of any size
            tolerance *= max(1.0, float(abs(expected).max(initial=0.0)))
        if self.form.name in HALF:
            tolerance = max(tolerance, _HALF_TOLERANCE * float(abs(expected).max(initial=0.0)))
        if given.shape != expected.shape:
            raise UnfitModelError(f"{self}: golden {what} must be {list(expected.shape)}. Given: {list(given.shape)}")
        difference = float(abs(given - expected).max(initial=0.0))
        if not difference <= tolerance:  # written so that NaN fails
            raise UnfitModelError(
                f"{self}: golden {what} must be within {tolerance:g} of the manifest's. Given: off by {difference}"
            )

    def run_blank(self, size: int) -> None:
        """Compute `size` inputs of zeros, to measure it or to set it up.

        Raises:
            UnfitModelError: the model cannot compute a batch of that size.
        """
        try:
            self.run(self.batch(bytearray(size * self.input_bytes)))
        except RuntimeError as error:
            raise UnfitModelError(f"{self}: a batch of {size} must compute. Given: {error}") from error

    def warm_up(self, max_batch_size: int) -> None:
        """Run batches up to `max_batch_size`, so that no request pays for a first time.

        Raises:
            UnfitModelError: the model cannot compute a batch of some size.
        """
        started = time.monotonic()
        for size in warm_up_sizes(max_batch_size):
            self.run_blank(size)
        seconds = time.monotonic() - started
        logger.info("warmed %s (%s) up to %d in %.1f s", self, self.form, max_batch_size, seconds)


def _pipeline(network: torchscript.Network, device: torch.device) -> cuda.Pipeline | None:
    """Return what computes a network's batches beside this thread, on a device that can."""
    return cuda.Pipeline(network, cuda.device_of(device)) if device.type == "cuda" else None


class _Done:
    """A batch that was computed at once, or failed."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Outputs | RuntimeError) -> None:
        self._outcome = outcome

    def ready(self) -> bool:
        return True

    def outputs(self) -> Outputs:
        if isinstance(self._outcome, RuntimeError):
            _raise(self._outcome)
        return self._outcome


class _Underway:
    """A batch that a device computes on its own."""

    __slots__ = ("_batch", "_make")

    def __init__(self, batch: cuda.Batch, make: Callable[[npt.NDArray[np.float32]], Outputs]) -> None:
        self._batch = batch
        self._make = make

    def ready(self) -> bool:
        try:
            return self._batch.ready()
        except RuntimeError:  # such errors stay: `outputs` meets it too
            return True

    def outputs(self) -> Outputs:
        try:
            columns = self._batch.logits()
        except RuntimeError as error:
            _raise(error)
        return self._make(columns)


def _raise(error: RuntimeError) -> NoReturn:
    """Raise `error` as it is, or as a DeviceFailedError if it is one of CUDA's errors that stay.

    These are an illegal access, a failed assertion, a device that is gone.
    """
    # Through TorchScript's interpreter only the text arrives. Memory that ran out says "CUDA out of memory".
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        raise DeviceFailedError(str(error)) from error
    raise error


def warm_up_sizes(max_batch_size: int) -> list[int]:
    """Return the batch sizes to run before a model serves: the first few, and the largest.

    benchmarks/first_requests.py: on the CPU, what these set up serves all other sizes too. Powers of two between them
    gained nothing, and all 128 took most of the start. On CUDA graphs have run all that they compute. Without them a
    size that never ran chooses its kernels in its first batch; running all 128 of every version, in its trial and again
    in the worker, was part of a start that took 15.6 s (H100; how large a part was not measured).
    """
    return sorted({size for size in (1, 2, 3, max_batch_size) if size <= max_batch_size})


Load = Callable[[ModelManifest, bytes], Model]
"""Makes a model of a verified artifact, ready to serve, or raises UnfitModelError."""
