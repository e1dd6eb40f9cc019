"""Optimisers and learning-rate schedules from hyper-parameters: torch's own, and Muon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.hyper_parameters import HyperParameters
from training.learning.torch_optimisers import ASGD, LBFGS, SGD, Adam, Optimizer, RAdam

WARM_UP = 0.2
"""Share of the steps over which `one_cycle` raises the learning rate."""

RESTART = 0.625
"""Share of the steps after which `warm_restart` starts again, from half of the learning rate.

Warm restarts are from Loshchilov and Hutter, "SGDR", arXiv 1608.03983; theirs follow a cosine from the full rate.
"""


def build_optimiser(weights: Iterable[nn.Parameter], hyper: HyperParameters, *, steps: int = 0) -> Optimizer:
    """Return the optimiser that `hyper` names, for `weights` on one device and a run of `steps` steps.

    ASGD averages the weights of the second half of the steps; `use_average` puts the averages into the network.
    """
    if hyper.optimiser == "sgd":
        return SGD(
            weights,
            lr=hyper.lr,
            momentum=hyper.momentum,
            nesterov=hyper.nesterov,
            weight_decay=hyper.weight_decay,
            fused=True,
        )
    if hyper.optimiser == "adam":
        # A step of `neural_net`: 1.2 ms fused, 1.3 ms by parameter, 1.4 ms foreach (one thread of an AMD EPYC 7003).
        return Adam(
            weights,
            lr=hyper.lr,
            betas=hyper.betas,
            eps=hyper.eps,
            weight_decay=hyper.weight_decay,
            amsgrad=hyper.amsgrad,
            fused=True,
        )
    if hyper.optimiser == "radam":
        return RAdam(weights, lr=hyper.lr, betas=hyper.betas, eps=hyper.eps, weight_decay=hyper.weight_decay)
    if hyper.optimiser == "asgd":
        return ASGD(weights, lr=hyper.lr, t0=steps / 2 - 1, weight_decay=hyper.weight_decay)
    if hyper.optimiser == "lbfgs":
        return LBFGS(weights, lr=hyper.lr)
    return Muon(weights, hyper)


def use_average(optimiser: Optimizer) -> bool:
    """Replace the weights of ASGD by their averages and return True; other optimisers have none."""
    if not isinstance(optimiser, ASGD):
        return False
    for weight, state in optimiser.state.items():
        weight.detach().copy_(state["ax"])
    return True


class Schedule:
    """Learning rates that change after every step of the optimiser.

    torch's LambdaLR does the same and took 0.02 ms of a step of `neural_net`, whose rate is constant.
    """

    def __init__(self, optimiser: Optimizer, hyper: HyperParameters, *, steps: int) -> None:
        """Set the rates of the first step of a run of `steps` steps."""
        self._optimiser = optimiser  # and not its groups, which it replaces when it is restored
        self._first = [group["lr"] for group in optimiser.param_groups]
        self._factor = _FACTORS[hyper.lr_schedule]
        self._steps = steps
        self._taken = 0
        self._set()

    def step(self) -> None:
        """Set the rates of the next step."""
        self._taken += 1
        if self._factor(self._taken, self._steps) != self._now:
            self._set()

    def _set(self) -> None:
        self._now = self._factor(self._taken, self._steps)
        for group, first in zip(self._optimiser.param_groups, self._first, strict=True):
            if isinstance(group["lr"], Tensor):  # a CUDA graph reads it
                group["lr"].fill_(first * self._now)
            else:
                group["lr"] = first * self._now

    def rates(self) -> dict[str, float]:
        """Return the learning rates of the next step by their hyper-parameter's name."""
        return {
            "filter_lr" if group.get("orthogonal") else "lr": first * self._now
            for group, first in zip(self._optimiser.param_groups, self._first, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._taken = state["taken"]
        for group in self._optimiser.param_groups:
            group["lr"] = 0.0  # a number again, if it was saved as a tensor
        self._set()


def _linear(step: int, steps: int) -> float:
    return max(0.0, 1.0 - step / steps)


def _one_cycle(step: int, steps: int) -> float:
    return max(0.0, min((step + 1) / (WARM_UP * steps + 1), (steps - step) / ((1 - WARM_UP) * steps)))


def _warm_restart(step: int, steps: int) -> float:
    first = RESTART * steps
    return 1.0 - step / first if step < first else max(0.0, 0.5 * (steps - step) / (steps - first))


_FACTORS: dict[str, Callable[[int, int], float]] = {
    "constant": lambda step, steps: 1.0,  # noqa: ARG005
    "linear": _linear,
    "one_cycle": _one_cycle,
    "warm_restart": _warm_restart,
}


class Muon(Optimizer):
    """Orthogonalised momentum for convolution filters, SGD with Nesterov momentum for all other weights.

    The step of a filter bank has all its singular values near 1, so that no direction starves. Filters are kept at an
    average norm of 1, which is free because a batch norm follows them. After Keller Jordan's Muon as airbench94 uses
    it: https://kellerjordan.github.io/posts/muon, https://github.com/KellerJordan/cifar10-airbench.
    """

    def __init__(self, weights: Iterable[nn.Parameter], hyper: HyperParameters) -> None:
        weights = list(weights)
        filters = {
            "params": [weight for weight in weights if weight.dim() == 4],
            "lr": hyper.filter_lr,
            "momentum": hyper.filter_momentum,
            "weight_decay": 0.0,
            "orthogonal": True,
        }
        others = {
            "params": [weight for weight in weights if weight.dim() != 4],
            "lr": hyper.lr,
            "momentum": hyper.momentum,
            "weight_decay": hyper.weight_decay,
            "orthogonal": False,
        }
        super().__init__([group for group in (filters, others) if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight by its gradient."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = gradient.add(weight, alpha=group["weight_decay"])
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(state["momentum"], alpha=group["momentum"])  # Nesterov: one step of the momentum ahead
        if group["orthogonal"]:
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            update = orthogonalise(update.flatten(1)).view(weight.shape)
        weight.sub_(update * group["lr"])  # not `alpha`: in a CUDA graph the learning rate is a tensor


def orthogonalise(matrix: Tensor, *, iterations: int = 3) -> Tensor:  # float32 [M, N] -> float32 [M, N]
    """Return `matrix` with singular values close to 1, by the Newton-Schulz iteration with Muon's constants."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
