"""torch's optimisers without what they do for torch.compile, which imports the compiler: 1.3 to 2 s of every run.

What they compute stays torch's own code; only the wrappers around their methods, which tell the compiler what to leave
alone, are gone. Nothing here is compiled.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import optim

_Method = TypeVar("_Method", bound=Callable[..., object])


def _plain(method: _Method) -> _Method:
    """Return a method without its wrappers."""
    plain: _Method = inspect.unwrap(method)
    return plain


def _plain_step(step: _Method) -> _Method:
    """Return `step` with one wrapper, in place of those that switch gradients off in a way that can be compiled."""
    return torch.no_grad()(_plain(step))


class Optimizer(optim.Optimizer):
    """The base of all optimisers here; its subclasses bring a `step`."""

    add_param_group = _plain(optim.Optimizer.add_param_group)
    zero_grad = _plain(optim.Optimizer.zero_grad)
    state_dict = _plain(optim.Optimizer.state_dict)
    load_state_dict = _plain(optim.Optimizer.load_state_dict)


class SGD(Optimizer, optim.SGD):
    """torch.optim.SGD."""

    step = _plain_step(optim.SGD.step)


class Adam(Optimizer, optim.Adam):
    """torch.optim.Adam."""

    step = _plain_step(optim.Adam.step)


class RAdam(Optimizer, optim.RAdam):
    """torch.optim.RAdam."""

    step = _plain_step(optim.RAdam.step)


class ASGD(Optimizer, optim.ASGD):
    """torch.optim.ASGD."""

    step = _plain_step(optim.ASGD.step)


class LBFGS(Optimizer, optim.LBFGS):
    """torch.optim.LBFGS."""

    step: Callable[..., Any] = _plain_step(optim.LBFGS.step)
