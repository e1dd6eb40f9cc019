"""TorchScript: loading an artifact and computing it in one form. A replacement for TorchScript would be made here.

Training uses it too, so that it tests an artifact with the code that will serve it. TorchScript is deprecated, which
torch warns about.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from service.contract.variants import FormName
from service.model import operators

_PRECISIONS: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_CHANNELS_LAST = ("channels_last", "float16")


class TorchScriptError(RuntimeError):  # like the errors that a module raises itself
    """Bytes that are no TorchScript module, or a module that does not compute logits."""


class Network:
    """A loaded module in one form; `network(inputs)` returns its logits, and outlier scores if it computes any."""

    def __init__(self, module: torch.jit.ScriptModule, form: FormName | Literal["published"]) -> None:
        self._forward = module.forward  # without the steps of an nn.Module's call, which a frozen one has no use for
        self._channels_last = form in _CHANNELS_LAST
        self._precision = _PRECISIONS.get(form)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return logits [N, K], or logits and scores [N, K + 1], as one tensor that a device copies in one step.

        Raises:
            RuntimeError: as `run`.
        """
        logits, scores = self.run(inputs)
        return logits if scores is None else torch.cat((logits, scores.unsqueeze(1)), 1)

    def run(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits [N, K] and, from a module with two outputs, outlier scores [N], on the module's device.

        Raises:
            RuntimeError: the module failed on `inputs`, or returned something else.
        """
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        try:
            outputs = self._forward(inputs) if self._precision is None else self._in_precision(inputs, self._precision)
        except torch.jit.Error as error:  # a `raise` in the module; it is no RuntimeError
            reason = str(error).splitlines()[-1]
            raise TorchScriptError(f"the module must compute its inputs. Given: {reason}") from error
        logits, scores = outputs if isinstance(outputs, tuple) and len(outputs) == 2 else (outputs, None)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != inputs.shape[0]:
            given = list(logits.shape) if isinstance(logits, Tensor) else type(outputs).__name__
            raise TorchScriptError(f"the module must return logits [{len(inputs)}, K]. Given: {given}")
        if scores is not None and (not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]):
            given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise TorchScriptError(f"the module must return scores [{len(inputs)}]. Given: {given}")
        return logits, scores

    def _in_precision(self, inputs: Tensor, precision: torch.dtype) -> object:
        with torch.autocast(inputs.device.type, precision):
            return self._forward(inputs)


def start() -> None:
    """Set TorchScript up: 50 ms of work that a process and all its forks need only once."""
    with without_deprecations():
        module = torch.jit.freeze(torch.jit.script(torch.nn.Linear(1, 1).eval()))
    with torch.inference_mode():
        for _ in range(2):  # the first run is profiled, the second optimised
            module(torch.zeros(1, 1))


def load(data: bytes, device: torch.device, form: FormName | Literal["published"] = "published") -> Network:
    """Load the module in `data` on `device`, in evaluation mode and frozen, to be computed in `form`.

    From then on, convolutions in this process do not use TF32.

    Raises:
        TorchScriptError: `data` holds no TorchScript module, or none that can take that form, or one that does
            something else than compute with tensors (see `operators`).
    """
    # A model published in float32 is served in float32. TF32, cuDNN's default, has 10 bits of mantissa instead of 23:
    # with it the golden logits of cifar10 would be off by 0.0065.
    torch.backends.cudnn.allow_tf32 = False
    with without_deprecations():
        try:
            operators.check_archive(data)
            module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location=device)
            operators.check_graph(module)
            if not _is_frozen(module):
                module = torch.jit.freeze(module.eval())
            if form == "prepacked":
                module = torch.jit.optimize_for_inference(module)
            return Network(module, form)
        except operators.ForbiddenOperatorError as error:
            raise TorchScriptError(str(error)) from error
        # The last three come from damaged names, maps and sizes.
        except (RuntimeError, LookupError, ValueError, MemoryError) as error:
            raise TorchScriptError(f"the artifact must be a TorchScript module. Given: {error}") from error


def _is_frozen(module: torch.jit.ScriptModule) -> bool:
    return not hasattr(module, "training")


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """Silence the warnings that torch.jit is deprecated; torch 2.11 warns with another category than 2.14."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=category)
        yield
