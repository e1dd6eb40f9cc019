"""Golden samples are run again when they are due, one at a time, and what comes out wrong ends the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

import service.model.selftest
from service.contract.registry import Registry
from service.model.model import DeviceFailedError, Model, UnfitModelError
from service.model.selftest import SelfTests, UnsoundWorkerError
from tests.registries import publish


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(service.model.selftest, "time", clock)
    return clock


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    manifests = [publish(tmp_path, name) for name in ("a", "b")]
    return [Model(m, Registry(tmp_path).artifact(m)) for m in manifests]


def test_each_model_is_proven_once_an_interval_and_one_at_a_time(clock: Clock, models: list[Model]) -> None:
    told: list[tuple[str, int, bool]] = []
    tests = SelfTests(30, lambda model, version, *, ok: told.append((model, version, ok)))
    tests.follow(models)
    at_load = sorted(told)
    told.clear()

    tests.run_one()
    too_early = list(told)
    clock.now += 30
    for _ in range(4):
        tests.run_one()
    clock.now += 29
    tests.run_one()

    assert at_load == [("a", 1, True), ("b", 1, True)]
    assert too_early == []
    assert told == [("a", 1, True), ("b", 1, True)]


def test_what_is_no_longer_served_is_no_longer_tested(clock: Clock, models: list[Model]) -> None:
    told: list[str] = []
    tests = SelfTests(30, lambda model, version, *, ok: told.append(model))
    tests.follow(models)
    tests.follow(models[:1])
    told.clear()

    clock.now += 30
    for _ in range(3):
        tests.run_one()

    assert told == ["a"]


@pytest.mark.parametrize("error", [UnfitModelError("off by 1"), DeviceFailedError("CUDA error: gone")])
def test_a_model_that_does_not_prove_itself_makes_the_worker_unsound(
    clock: Clock, models: list[Model], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    told: list[bool] = []
    tests = SelfTests(30, lambda model, version, *, ok: told.append(ok))
    tests.follow(models[:1])

    def prove() -> None:
        raise error

    monkeypatch.setattr(models[0], "prove", prove)
    clock.now += 30

    with pytest.raises(UnsoundWorkerError, match=f"a@1 has passed before and must pass again. Given: {error}"):
        tests.run_one()
    assert told == [True, False]
