"""What decides about CUDA graphs, with torch.cuda's graphs replaced; no GPU is needed, and none was used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.fake_graphs import FakeGraph, graphs
from training.hyper_parameters import HyperParameters
from training.learning.distributed import World
from training.learning.graphed_step import TIMED, WARM_UP, GraphedStep, fastest_step
from training.learning.optimisers import Schedule, build_optimiser
from training.learning.step import EagerStep, Step

CPU = torch.device("cpu")
ADAM = HyperParameters(epochs=1, batch_size=8, optimiser="adam", lr=0.01, lr_schedule="linear")
SGD = HyperParameters(epochs=1, batch_size=8, optimiser="sgd", lr=0.1, momentum=0.9, lr_schedule="one_cycle")
MUON = HyperParameters(epochs=1, batch_size=8, optimiser="muon", lr=0.1, momentum=0.9, lr_schedule="linear")
TRIAL = WARM_UP + 2 * TIMED

__all__ = ["graphs"]  # a fixture


class Clock:
    """A clock that an eager step, or a replay, moves on by what it is said to cost."""

    def __init__(self, eager: float, graphed: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.eager = 0.0, eager
        replay = FakeGraph.replay

        def timed(graph: FakeGraph) -> None:
            self.now += graphed
            replay(graph)

        monkeypatch.setattr(FakeGraph, "replay", timed)

    def __call__(self) -> float:
        return self.now


class Network(nn.Module):
    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
        self.clock, self.calls = clock, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.clock is not None:
            self.clock.now += self.clock.eager
        logits: Tensor = self.layers(images)
        return logits


def batches(steps: int, shape: tuple[int, ...] = (8, 1, 6, 6)) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.rand(shape, generator=generator), torch.randint(0, 3, shape[:1], generator=generator)


def trained(
    hyper: HyperParameters, given: list[tuple[Tensor, Tensor]], clock: Clock | None = None
) -> tuple[Network, list[float]]:
    """Train on `given`, with graphs if there is a clock; return the network and the loss of every step."""
    network = Network(clock)
    optimiser = build_optimiser(network.parameters(), hyper)
    schedule = Schedule(optimiser, hyper, steps=len(given))
    eager = EagerStep(network, optimiser, hyper, device=CPU, world=World())
    step: Step = eager if clock is None else GraphedStep(eager, CPU, clock=clock)
    losses = []
    for inputs, labels in given:
        losses.append(step(inputs, labels)[0])
        schedule.step()
    return network, [loss.item() for loss in losses]


def assert_same(first: tuple[Network, list[float]], second: tuple[Network, list[float]]) -> None:
    # A learning rate on the device is a float32.
    assert first[1] == pytest.approx(second[1], rel=1e-3)
    for ours, theirs in zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("hyper", [ADAM, SGD, MUON], ids=lambda hyper: hyper.optimiser)
def test_a_faster_graph_is_kept_and_trains_as_the_eager_step_does(
    hyper: HyperParameters, graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list(batches(TRIAL + 20))

    ours = trained(hyper, given, Clock(eager=3, graphed=1, monkeypatch=monkeypatch))

    assert [graph.replays for graph in graphs] == [TIMED + 20]
    assert ours[0].calls == WARM_UP + TIMED + 1  # and the capture
    assert_same(ours, trained(hyper, given))


def test_a_slower_graph_is_dropped(graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    given = list(batches(TRIAL + 20))

    ours = trained(ADAM, given, Clock(eager=1, graphed=3, monkeypatch=monkeypatch))

    assert [graph.replays for graph in graphs] == [TIMED]
    assert_same(ours, trained(ADAM, given))


def test_every_shape_has_a_graph_of_its_own_that_sees_the_learning_rate_change(
    graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = zip(batches(TRIAL + 20), batches(TRIAL + 20, (8, 1, 9, 9)), strict=True)
    given = [batch for pair in both for batch in pair]

    ours = trained(SGD, given, Clock(eager=3, graphed=1, monkeypatch=monkeypatch))

    assert [graph.replays for graph in graphs] == [TIMED + 20] * 2
    assert_same(ours, trained(SGD, given))


def test_a_rare_shape_such_as_that_of_the_last_batch_stays_eager(
    graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*batches(TRIAL + 5), *batches(1, (3, 1, 6, 6)), *batches(5)]

    ours = trained(ADAM, given, Clock(eager=3, graphed=1, monkeypatch=monkeypatch))

    assert [graph.replays for graph in graphs] == [TIMED + 10]
    assert_same(ours, trained(ADAM, given))


def test_a_capture_that_fails_is_one_line_in_the_log_and_training_goes_on(
    graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    given = [*batches(TRIAL + 5), *batches(TRIAL + 5, (4, 1, 6, 6))]

    with caplog.at_level(logging.INFO):
        ours = trained(ADAM, given, Clock(eager=3, graphed=1, monkeypatch=monkeypatch))

    assert caplog.messages == ["training without CUDA graphs: operation not permitted when stream is capturing"]
    assert [graph.replays for graph in graphs] == [0]
    assert ours[0].calls == len(given)
    assert_same(ours, trained(ADAM, given))


def test_a_step_that_fails_while_it_is_captured_trains_eagerly(
    graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reads(Network):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return logits if logits.sum().item() else -logits

    monkeypatch.setitem(globals(), "Network", Reads)
    given = list(batches(TRIAL + 5))

    ours = trained(ADAM, given, Clock(eager=3, graphed=1, monkeypatch=monkeypatch))

    assert [graph.replays for graph in graphs] == [0]
    assert_same(ours, trained(ADAM, given))


@pytest.mark.usefixtures("graphs")
def test_a_cpu_and_several_processes_train_eagerly() -> None:
    network = Network()
    eager = EagerStep(network, build_optimiser(network.parameters(), ADAM), ADAM, device=CPU, world=World())

    assert fastest_step(eager, CPU, World()) is eager
    assert fastest_step(eager, torch.device("cuda", 0), World(rank=0, size=2)) is eager
    assert isinstance(fastest_step(eager, torch.device("cuda", 0), World()), GraphedStep)
