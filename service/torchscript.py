"""The service's one door to TorchScript, which is deprecated upstream and warns: here is where it would be replaced."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor


class TorchScriptError(RuntimeError):  # as what a module raises itself is
    """Bytes that are not a TorchScript module, or one that does not compute logits."""


def start() -> None:
    """Let TorchScript set itself up, 50 ms of work that a process and all that are forked from it need only once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        module = torch.jit.freeze(torch.jit.script(torch.nn.Linear(1, 1).eval()))
    with torch.inference_mode():
        for _ in range(2):  # the first run is profiled, the second optimised
            module(torch.zeros(1, 1))


def load(data: bytes, device: torch.device) -> torch.jit.ScriptModule:
    """The module in `data` on `device`, in evaluation mode and frozen.

    Raises:
        TorchScriptError: `data` holds no TorchScript module.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        try:
            module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location=device
            )
            return module if _is_frozen(module) else torch.jit.freeze(module.eval())
        # From damaged names, maps and sizes: the others.
        except (RuntimeError, LookupError, ValueError, MemoryError) as error:
            raise TorchScriptError(f"the artifact must be a TorchScript module. Given: {error}") from error


def call(module: torch.jit.ScriptModule, inputs: Tensor) -> Tensor:
    """`module(inputs)`, with the outcome checked: a tensor of two dimensions, a row for each input.

    Raises:
        RuntimeError: the module failed on `inputs`, or returned something else.
    """
    try:
        outputs = module(inputs)
    except torch.jit.Error as error:  # what a `raise` in the module becomes; it is no RuntimeError
        raise TorchScriptError(f"the module must compute its inputs. Given: {str(error).splitlines()[-1]}") from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(inputs):
        given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TorchScriptError(f"the module must return logits [{len(inputs)}, K]. Given: {given}")
    return outputs


def _is_frozen(module: torch.jit.ScriptModule) -> bool:
    return not hasattr(module, "training")
