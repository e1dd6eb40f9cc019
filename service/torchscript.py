"""The service's one door to TorchScript, which is deprecated upstream and warns: here is where it would be replaced."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor


class TorchScriptError(Exception):
    """Bytes that are not a TorchScript module, or one that cannot be prepared."""


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
        except RuntimeError as error:
            raise TorchScriptError(f"the artifact must be a TorchScript module. Given: {error}") from error


def call(module: torch.jit.ScriptModule, inputs: Tensor) -> Tensor:
    """`module(inputs)`, with the outcome's type checked: a tensor of two dimensions."""
    outputs = module(inputs)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        raise TorchScriptError(f"the module must return logits [N, K]. Given: {getattr(outputs, 'shape', outputs)}")
    return outputs


def _is_frozen(module: torch.jit.ScriptModule) -> bool:
    return not hasattr(module, "training")
