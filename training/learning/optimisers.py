"""From hyper-parameters to optimisers: SGD, Adam and Muon, each with the schedule of its learning rate.

SGD and Adam are torch's fused kernels, called without `torch.optim`: that brings torch's compiler along, which takes
1.3 s of every start, and its bookkeeping in Python took longer than the kernel does for a network like `neural_net`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.hyper_parameters import HyperParameters

WARM_UP = 0.2
"""Share of the steps over which `one_cycle` raises the learning rate."""

RESTART = 0.625
"""Share of the steps after which `warm_restart` begins again, from half of the learning rate.

Warm restarts are Loshchilov and Hutter's, "SGDR", arXiv 1608.03983; theirs fall along a cosine and begin at the whole.
"""


def build_optimiser(weights: Sequence[nn.Parameter], hyper: HyperParameters, *, steps: int) -> Optimiser:
    """The optimiser that moves `weights`, all of them on one device, in a run of that many steps."""
    kind = {"sgd": Sgd, "adam": Adam, "muon": Muon}[hyper.optimiser]
    return kind(weights, hyper, steps=steps)


class Optimiser:
    """Moves weights along the gradients that they bear; what it remembers of the steps before is its state."""

    def __init__(self, weights: Sequence[nn.Parameter], hyper: HyperParameters, *, steps: int) -> None:
        self.hyper = hyper
        self._weights = weights
        self._values = [weight.detach() for weight in weights]  # the same memory, out of autograd's sight
        self._memory: dict[str, list[Tensor]] = {}
        self._total = steps
        self._done = 0

    @property
    def factor(self) -> float:
        """The share of its learning rate that the next step has."""
        step, steps = self._done, self._total
        if self.hyper.lr_schedule == "constant":
            return 1.0
        if self.hyper.lr_schedule == "linear":
            return max(0.0, 1.0 - step / steps)
        if self.hyper.lr_schedule == "warm_restart":
            first = RESTART * steps
            return 1.0 - step / first if step < first else max(0.0, 0.5 * (steps - step) / (steps - first))
        return max(0.0, min((step + 1) / (WARM_UP * steps + 1), (steps - step) / ((1 - WARM_UP) * steps)))

    def step(self) -> None:
        """Move every weight; each must have a gradient."""
        self._move([weight.grad for weight in self._weights], self.factor)  # type: ignore[misc]
        self._done += 1

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, but for weights and gradients."""
        return {"done": self._done, **self._memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._done = state["done"]
        for name, tensors in self._memory.items():
            for tensor, saved in zip(tensors, state[name], strict=True):
                tensor.copy_(saved)

    def _move(self, gradients: list[Tensor], factor: float) -> None:
        raise NotImplementedError

    def _remember(self, name: str) -> list[Tensor]:
        """A zero for each value, which is saved and restored under this name."""
        self._memory[name] = [torch.zeros_like(value) for value in self._values]
        return self._memory[name]


class Sgd(Optimiser):
    """Stochastic gradient descent."""

    def __init__(self, weights: Sequence[nn.Parameter], hyper: HyperParameters, *, steps: int) -> None:
        super().__init__(weights, hyper, steps=steps)
        self._momenta = self._remember("momenta") if hyper.momentum else []

    def _move(self, gradients: list[Tensor], factor: float) -> None:
        torch._fused_sgd_(
            self._values,
            gradients,
            self._momenta,
            weight_decay=self.hyper.weight_decay,
            momentum=self.hyper.momentum,
            lr=self.hyper.lr * factor,
            dampening=0.0,
            nesterov=self.hyper.nesterov,
            maximize=False,
            is_first_step=False,
        )


class Adam(Optimiser):
    """Adam: steps of the size of the learning rate, by the averages of the gradient and of its square."""

    def __init__(self, weights: Sequence[nn.Parameter], hyper: HyperParameters, *, steps: int) -> None:
        super().__init__(weights, hyper, steps=steps)
        self._averages = self._remember("averages")
        self._squares = self._remember("squares")
        self._largest = self._remember("largest") if hyper.amsgrad else []
        self._count = torch.zeros((), device=self._values[0].device)  # what the kernel corrects the averages by
        self._memory["count"] = [self._count]

    def _move(self, gradients: list[Tensor], factor: float) -> None:
        self._count += 1
        torch._fused_adam_(
            self._values,
            gradients,
            self._averages,
            self._squares,
            self._largest,
            [self._count] * len(gradients),
            lr=self.hyper.lr * factor,
            beta1=self.hyper.betas[0],
            beta2=self.hyper.betas[1],
            weight_decay=self.hyper.weight_decay,
            eps=self.hyper.eps,
            amsgrad=self.hyper.amsgrad,
            maximize=False,
        )


class Muon(Optimiser):
    """Orthogonalised momentum for convolution filters, SGD with Nesterov momentum for the rest.

    A filter bank's step has all singular values near 1, so that no direction starves; its weights are kept at an
    average norm of 1 a filter, which a batch norm behind it makes free. After Keller Jordan's Muon, as airbench94 uses
    it: https://kellerjordan.github.io/posts/muon, https://github.com/KellerJordan/cifar10-airbench.
    """

    def __init__(self, weights: Sequence[nn.Parameter], hyper: HyperParameters, *, steps: int) -> None:
        super().__init__(weights, hyper, steps=steps)
        self._momenta = self._remember("momenta")

    def _move(self, gradients: list[Tensor], factor: float) -> None:
        for value, gradient, momentum in zip(self._values, gradients, self._momenta, strict=True):
            if value.dim() == 4:
                self._turn(value, gradient, momentum, factor)
            else:
                decayed = gradient.add(value, alpha=self.hyper.weight_decay)
                update = _nesterov(decayed, momentum, self.hyper.momentum)
                value.add_(update, alpha=-self.hyper.lr * factor)

    def _turn(self, filters: Tensor, gradient: Tensor, momentum: Tensor, factor: float) -> None:
        update = _nesterov(gradient, momentum, self.hyper.filter_momentum)
        filters.mul_(len(filters) ** 0.5 / filters.norm())
        update = orthogonalise(update.flatten(1)).view(filters.shape)
        filters.add_(update, alpha=-self.hyper.filter_lr * factor)


def _nesterov(gradient: Tensor, momentum: Tensor, kept: float) -> Tensor:
    """The gradient one step of the momentum ahead, which is brought up to date."""
    momentum.mul_(kept).add_(gradient)
    return gradient.add(momentum, alpha=kept)


def orthogonalise(matrix: Tensor, *, iterations: int = 3) -> Tensor:  # float32 [M, N] -> float32 [M, N]
    """`matrix` with its singular values moved close to 1, by the Newton-Schulz iteration whose constants Muon found."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
