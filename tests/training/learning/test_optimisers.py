from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from training.hyper_parameters import HyperParameters
from training.learning.optimisers import Schedule, build_optimiser, orthogonalise, use_average

MUON = HyperParameters(
    epochs=1, batch_size=1, optimiser="muon", lr=0.1, momentum=0.9, filter_lr=0.2, filter_momentum=0.6
)


def rates(name: str, steps: int) -> list[float]:
    """The learning rate of each step, as a share of lr."""
    hyper = HyperParameters(epochs=1, batch_size=1, optimiser="sgd", lr=2.0, lr_schedule=name)
    weight = nn.Parameter(torch.zeros(1))
    optimiser = build_optimiser([weight], hyper)
    schedule = Schedule(optimiser, hyper, steps=steps)
    seen = []
    for _ in range(steps):
        weight.data.zero_()
        weight.grad = torch.ones(1)
        optimiser.step()
        schedule.step()
        seen.append(-weight.item() / 2)
    return seen


def test_each_schedule_has_its_course() -> None:
    schedules = ("constant", "linear", "one_cycle", "warm_restart")
    constant, linear, one_cycle, warm_restart = (rates(name, 100) for name in schedules)

    assert constant == pytest.approx([1.0] * 100)
    assert linear == pytest.approx([1 - step / 100 for step in range(100)])
    assert 0 < one_cycle[0] < 0.1
    assert one_cycle.index(max(one_cycle)) == 20
    assert max(one_cycle) == pytest.approx(1, abs=0.02)
    assert one_cycle[20:] == sorted(one_cycle[20:], reverse=True)
    assert 0 < one_cycle[-1] < 0.02
    assert warm_restart == pytest.approx(
        [1 - step / 62.5 for step in range(63)] + [step / 75 for step in range(37, 0, -1)]
    )


@pytest.mark.parametrize("shape", [(8, 27), (27, 8)], ids=str)
def test_an_orthogonalised_step_has_all_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(-1, 1, shape[1]))

    orthogonal = orthogonalise(matrix, iterations=5)

    values = torch.linalg.svdvals(orthogonal)
    assert orthogonal.shape == shape
    assert torch.linalg.svdvals(matrix).max() > 5 * torch.linalg.svdvals(matrix).min()
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_keeps_filters_at_norm_one_and_moves_them_by_an_orthogonal_step() -> None:
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(4, 2, 3, 3) * 5)
    before = filters.detach() * 4**0.5 / filters.detach().norm()
    filters.grad = torch.randn(4, 2, 3, 3)

    build_optimiser([filters], MUON).step()

    step = (before - filters.detach()) / 0.2
    assert torch.linalg.svdvals(step.flatten(1)).tolist() == pytest.approx([1] * 4, abs=0.35)
    assert torch.allclose(step.flatten(1), orthogonalise(filters.grad.flatten(1)), atol=1e-4)


def test_muon_is_nesterov_sgd_for_everything_but_filters() -> None:
    torch.manual_seed(0)
    ours, torchs = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    hyper = MUON.override({"weight_decay": 0.01})
    optimisers = [
        build_optimiser([ours], hyper),
        torch.optim.SGD([torchs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ]

    for _ in range(4):
        ours.grad = torch.randn(3, 2)
        torchs.grad = ours.grad.clone()
        for optimiser in optimisers:
            optimiser.step()

    assert torch.allclose(ours, torchs)


@pytest.mark.parametrize(
    ("options", "torchs"),
    [
        ({"optimiser": "sgd"}, torch.optim.SGD),
        ({"optimiser": "sgd", "momentum": 0.9, "weight_decay": 0.1}, torch.optim.SGD),
        ({"optimiser": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"optimiser": "adam"}, torch.optim.Adam),
        ({"optimiser": "adam", "weight_decay": 0.1, "amsgrad": True}, torch.optim.Adam),
        ({"optimiser": "adam", "betas": (0.5, 0.9), "eps": 0.1}, torch.optim.Adam),
        ({"optimiser": "radam", "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1}, torch.optim.RAdam),
        ({"optimiser": "asgd", "weight_decay": 0.1}, torch.optim.ASGD),
    ],
    ids=str,
)
def test_torchs_optimisers_step_as_their_hyper_parameters_say(
    options: dict[str, Any], torchs: Callable[..., torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    hyper = HyperParameters(epochs=1, batch_size=1, lr=0.1, **options)
    ours, theirs = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimisers = [
        build_optimiser([ours], hyper),
        torchs([theirs], lr=0.1, **{name: value for name, value in options.items() if name != "optimiser"}),
    ]

    for _ in range(4):
        ours.grad = torch.randn(3, 2)
        theirs.grad = ours.grad.clone()
        for optimiser in optimisers:
            optimiser.step()

    assert torch.allclose(ours, theirs)
    assert not torch.allclose(ours, torch.ones(3, 2), atol=0.01)


@pytest.mark.parametrize(
    "hyper",
    [
        MUON,
        HyperParameters(epochs=1, batch_size=1, optimiser="adam", lr=0.1, amsgrad=True, lr_schedule="linear"),
        HyperParameters(epochs=1, batch_size=1, optimiser="sgd", lr=0.1, momentum=0.9, lr_schedule="one_cycle"),
        HyperParameters(epochs=1, batch_size=1, optimiser="radam", lr=0.1),
        HyperParameters(epochs=1, batch_size=1, optimiser="asgd", lr=0.1),
    ],
    ids=lambda hyper: hyper.optimiser,
)
def test_a_restored_optimiser_and_schedule_continue_as_if_never_stopped(hyper: HyperParameters) -> None:
    class Run:
        def __init__(self, weight: nn.Parameter) -> None:
            self.weight, self.optimiser = weight, build_optimiser([weight], hyper)
            self.schedule = Schedule(self.optimiser, hyper, steps=4)

        def steps(self, seeds: range) -> None:
            for seed in seeds:
                torch.manual_seed(seed)
                self.weight.grad = torch.randn_like(self.weight)
                self.optimiser.step()
                self.schedule.step()

    unbroken, stopped = (nn.Parameter(torch.ones(4, 2, 3, 3)) for _ in range(2))
    Run(unbroken).steps(range(4))

    first = Run(stopped)
    first.steps(range(2))
    second = Run(stopped)
    second.optimiser.load_state_dict(first.optimiser.state_dict())
    second.schedule.load_state_dict(first.schedule.state_dict())
    second.steps(range(2, 4))

    assert torch.equal(unbroken, stopped)


def test_asgd_ends_with_the_average_of_the_weights_of_its_second_half() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = build_optimiser([weight], HyperParameters(epochs=1, batch_size=1, optimiser="asgd", lr=1.0), steps=4)
    weights = []
    for gradient in (-1.0, -2.0, -3.0, -4.0):
        weight.grad = torch.tensor([gradient])
        optimiser.step()
        weights.append(weight.item())

    use_average(optimiser)

    assert weight.item() == pytest.approx(sum(weights[2:]) / 2)


def test_the_other_optimisers_keep_their_last_weights() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = build_optimiser([weight], HyperParameters(epochs=1, batch_size=1, optimiser="radam", lr=1.0))
    weight.grad = torch.ones(1)
    optimiser.step()
    before = weight.item()

    use_average(optimiser)

    assert weight.item() == before != 0
