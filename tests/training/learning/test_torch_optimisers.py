from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.hyper_parameters import HyperParameters
from training.learning.optimisers import build_optimiser

KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {},
    "radam": {},
    "asgd": {},
    "lbfgs": {},
    "muon": {"momentum": 0.9, "filter_lr": 0.2, "filter_momentum": 0.6},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_is_built_steps_and_is_restored_without_torchs_compiler(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it fails
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):  # which remember that they did
        wrapped = getattr(torch.optim.Optimizer, name).__wrapped__
        monkeypatch.delattr(wrapped, "__dynamo_disable", raising=False)
    weight = nn.Parameter(torch.ones(2, 3, 3, 3))
    hyper = HyperParameters(epochs=1, batch_size=1, optimiser=kind, lr=0.1, **KINDS[kind])

    optimiser = build_optimiser([weight], hyper, steps=4)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (weight**2).sum()
        value.backward()
        return value

    loss()
    step: Any = optimiser.step
    step(*[loss] if kind == "lbfgs" else [])
    optimiser.load_state_dict(optimiser.state_dict())

    assert weight.grad is not None
    assert (weight < 1).all()
