"""A CUDA device without a GPU: torch's fake tensors, which have shapes and devices but no values.

Operations on mismatched devices fail as on a GPU. Two things that need values, or a driver, are filled in: numbers that
Python reads are 1, masks select half of the examples; and gradients are zeros, because autograd asks the CUDA driver
for its stream even for fake tensors. So the operations of a backward pass are not checked; the ones around it are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training import fake_graphs
from training.learning import torch_optimisers

FREE_BYTES = 80 * 2**30
aten = torch.ops.aten
_ONES = {torch.float32: 1.0, torch.float64: 1.0, torch.bool: True}


class _Values(TorchDispatchMode):
    """Answers what fake tensors cannot: which value, and how many are selected."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return _ONES.get(args[0].dtype, 1)
        if func is aten.nonzero.default:
            return args[0].new_zeros((max(1, args[0].numel() // 2), args[0].dim()), dtype=torch.int64)
        if func is aten.bincount.default:
            return args[0].new_zeros(kwargs.get("minlength", args[-1]))
        if func is aten._pin_memory.default:
            if args[0].device.type != "cpu":
                raise RuntimeError(f"cannot pin 'torch.{args[0].device.type}.Tensor': only dense CPU tensors can be")
            return args[0].clone()
        if func is aten.is_pinned.default:
            return False
        if func.__name__.startswith(("_fused_sgd", "_fused_adam")):  # they have no fake implementation
            devices = {tensor.device for tensors in args if isinstance(tensors, list | tuple) for tensor in tensors}
            if len(devices) != 1:
                raise RuntimeError(f"a fused optimiser must have all tensors on one device. Given: {devices}")
            return None
        if func in (aten.index.Tensor, aten.index_put_.default):
            chosen = [_places(index) if index is not None else None for index in args[1]]
            args = (args[0], chosen, *args[2:])
        return func(*args, **kwargs)


def _places(index: Tensor) -> Tensor:
    """The places that a mask chooses, as indices; other indices as they are."""
    if index.dtype != torch.bool:
        return index
    return torch.zeros(max(1, len(index) // 2), dtype=torch.int64, device=index.device)


def _get(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]` by plain operations; torch's own way asks the CUDA driver for the current device."""
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in (part for part in indices if not isinstance(part, Tensor)):
        place = next(i for i, part in enumerate(indices) if part is Ellipsis)
        missing = tensor.dim() - sum(part is not None and part is not Ellipsis for part in indices)
        indices[place : place + 1] = [slice(None)] * missing
    axis = 0
    for place, part in enumerate(indices):
        if isinstance(part, Tensor):
            rest = [other if isinstance(other, Tensor) else None for other in indices[place:]]
            chosen: Tensor = aten.index.Tensor(tensor, [None] * axis + rest)
            return chosen
        if part is None:
            tensor = tensor.unsqueeze(axis)
            axis += 1
        elif isinstance(part, int):
            tensor = tensor.select(axis, part)
        else:
            start, stop, step = part.indices(tensor.shape[axis])
            tensor = aten.slice.Tensor(tensor, axis, start, stop, step)
            axis += 1
    return tensor


def _tensor(data: Any, *, device: torch.device | None = None, _tensor: Any = torch.tensor, **options: Any) -> Tensor:
    """`torch.tensor`, which would make a real tensor on the device before it is taken for a fake one."""
    made: Tensor = _tensor(data, **options)
    return made if device is None else made.to(device)


def _contiguous(tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    contiguous: Tensor = aten.contiguous.default(tensor, memory_format=memory_format)
    return contiguous


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    if isinstance(index, Tensor):
        aten.index_put_.default(tensor, [index], torch.as_tensor(value, device=tensor.device, dtype=tensor.dtype))
    else:
        _get(tensor, index).copy_(torch.as_tensor(value))


def _tensor_to(tensor: Tensor, *args: Any, _to: Any = Tensor.to, **kwargs: Any) -> Tensor:
    """`tensor.to`; a device without an index is the current one, for which torch would ask the CUDA driver."""

    def indexed(value: Any) -> Any:
        return torch.device("cuda", 0) if isinstance(value, torch.device | str) and str(value) == "cuda" else value

    moved: Tensor = _to(tensor, *map(indexed, args), **{name: indexed(value) for name, value in kwargs.items()})
    return moved


def _to(module: nn.Module, device: torch.device | None = None, **options: Any) -> nn.Module:
    """Move `module`; nn.Module.to swaps tensors that fake tensors keep references to."""
    del options  # a memory format, which fake tensors may ignore
    if device is None:
        return module
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                moved = nn.Parameter(weight.detach().to(device), requires_grad=weight.requires_grad)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return module


@contextlib.contextmanager
def cuda() -> Iterator[None]:
    """A machine with one free CUDA device, whose tensors, and those on the CPU too, are fake inside the block."""
    trained: list[nn.Parameter] = []
    zero_grad = torch_optimisers.Optimizer.zero_grad

    def zeroed(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        trained[:] = [weight for group in self.param_groups for weight in group["params"]]
        zero_grad(self, set_to_none)

    def backward(self: Tensor, *_: Any, **__: Any) -> None:
        for weight in trained:
            assert weight.device == self.device
            weight.grad = torch.zeros_like(weight)

    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():  # else tests on the real device need it initialised
            patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        patch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (FREE_BYTES, FREE_BYTES))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, check, lambda self: None, raising=False)
        fake_graphs.replace(patch)
        patch.setattr(nn.init, "dirac_", lambda tensor: tensor.zero_())  # sets 1,000 values one by one: 15 s
        patch.setattr(Tensor, "to", _tensor_to)
        patch.setattr(nn.Module, "to", _to)
        patch.setattr(torch, "tensor", _tensor)
        patch.setattr(FakeTensor, "__getitem__", _get, raising=False)
        patch.setattr(FakeTensor, "__setitem__", _set, raising=False)
        patch.setattr(FakeTensor, "copy_", lambda self, other: aten.copy_.default(self, other), raising=False)
        patch.setattr(FakeTensor, "nonzero", lambda self: aten.nonzero.default(self), raising=False)
        patch.setattr(FakeTensor, "contiguous", _contiguous, raising=False)
        patch.setattr(FakeTensor, "__invert__", lambda self: torch.bitwise_not(self), raising=False)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(torch_optimisers.Optimizer, "zero_grad", zeroed)
        patch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", -1)  # one-element tensors would be computed on the device
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Values():  # type: ignore[no-untyped-call]
            yield
