"""Several processes that train one network: each computes a part of every batch, and all take the same steps.

`torchrun --nproc-per-node N -m training train ...` (or `run`) starts them. A process alone is a world of one and pays
nothing for what is here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.errors import OptionError

Value = TypeVar("Value")

_PATIENCE = timedelta(days=1)
"""For what the first process does alone: it may wait for another job to end, which takes longer than any batch."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and this one's place among them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine: which of its GPUs
    talk: Any = field(default=None, compare=False, repr=False)  # the group for objects; tensors have another

    @property
    def leads(self) -> bool:
        """Whether this process shows progress, saves and publishes."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """Return this process's own device of the chosen kind."""
        return torch.device("cuda", self.local_rank) if device.type == "cuda" else device

    def part(self, tensor: Tensor) -> Tensor:
        """Return this process's part of a batch, which may be empty when the batch is small."""
        return tensor if self.size == 1 else torch.tensor_split(tensor, self.size)[self.rank]

    def first(self, act: Callable[[], Value]) -> Value:
        """Call `act` in the first process alone and return its result in every process; an error is raised in all."""
        if self.size == 1:
            return act()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = act()
            except Exception as error:  # noqa: BLE001 - the others would wait for ever
                told[1] = error
        dist.broadcast_object_list(told, 0, group=self.talk)
        result: Value
        result, failure = told
        if failure is not None:
            raise failure
        return result

    def sum(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        for gradient, summed in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def align(self, network: nn.Module) -> None:
        """Copy the first process's weights to all others."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)

    def lead(self, values: Iterable[float]) -> list[float]:
        """Return the first process's values, so that all decide alike; each process may have computed its own."""
        numbers = list(values)
        if self.size > 1:
            device = torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")
            shared = torch.tensor(numbers, dtype=torch.float64, device=device)
            dist.broadcast(shared, 0)
            numbers = shared.tolist()
        return numbers

    @contextlib.contextmanager
    def shared_norms(self, network: nn.Module) -> Iterator[None]:
        """Make batch norms compute mean and variance over all processes' parts inside the block."""
        norms = [module for module in network.modules() if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)]
        kinds = [type(norm) for norm in norms]
        try:
            if self.size > 1:
                for norm in norms:
                    norm.__class__ = _SharedNorm
            yield
        finally:
            for norm, kind in zip(norms, kinds, strict=True):
                norm.__class__ = kind


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Yield the world that torchrun started this process in, or a world of one without torchrun.

    Raises:
        OptionError: processes cannot train together on such a device.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield World()
        return
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be cpu or cuda under torchrun. Given: {device.type}")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        talk = dist.new_group(backend="gloo", timeout=_PATIENCE)
        world = World(dist.get_rank(), dist.get_world_size(), dist.get_node_local_rank(), talk)
        if device.type == "cuda":
            torch.cuda.set_device(world.local_rank)
        yield world
    finally:
        dist.destroy_process_group()


class _SharedNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm over the parts of all processes; torch's own SyncBatchNorm has no CPU version."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return super().forward(inputs)
        values = inputs.float()
        axes = [axis for axis in range(values.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.dim())]
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = _AllReduce.apply(torch.cat([values.sum(axes), count]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        # A second message in place of E[x²] - E[x]², whose difference loses the digits that matter.
        variance = _AllReduce.apply((values - mean.view(shape)).square().sum(axes)) / n
        self._track(mean.detach(), variance.detach() * n / (n - 1))
        normal = (values - mean.view(shape)) * (variance.view(shape) + self.eps).rsqrt()
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normal.to(inputs.dtype)
        return result

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002, ARG002 - torch's name
        return


class _AllReduce(torch.autograd.Function):
    """A sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - torch's interface
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed
