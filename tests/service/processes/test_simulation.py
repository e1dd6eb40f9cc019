"""Random schedules of faults over the real parts of a service: every request is answered once, and nothing leaks.

`SIMULATION_SEED=N` replays the schedule of one seed; `SIMULATION_SCHEDULES=N` runs so many in place of 250. Within the
first hundred it has found each of these faults, put in by hand: a block that is not sent again after a worker's death,
because the retrier is away or has given it back; an answer that counts twice or is sent twice; a late answer that
leaves its images in the queue's count; late requests that nobody looks for; an image that ended a process and is
forgotten by the HTTP process or by the retrier.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract.manifest import ImageInput, ModelManifest
from service.engine.messages import CRASHED, FAILED
from service.engine.queues import Part
from service.problems import ModelFailed, Unavailable
from tests.registries import publish
from tests.service.processes import simulated
from tests.service.processes.simulated import CLOCK, HANG, POISON, RAISE, Request, World, classes_of, fake_system

__all__ = ["fake_system"]

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "250"))
SEED = os.environ.get("SIMULATION_SEED")

BAD = {POISON, HANG, RAISE}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[ModelManifest]:
    """Three versions of the models `a` and `b`."""
    spec = ImageInput(shape=(1, 1, 1), colour="grey")
    golden = [[0.0, 0.0], [0.0, 0.0]]
    root = tmp_path_factory.mktemp("registry")
    one = publish(root, "a", spec=spec, classes=("even", "odd"), logits=golden, artifact=b"nothing")
    return [one.model_copy(update={"name": name, "version": n}) for name in "ab" for n in (1, 2, 3)]


def outcome(request: Request) -> list[int]:
    """The classes of a request's images that were answered."""
    parts = [part for part in request.parts if isinstance(part, Part)]
    return [class_id for part in parts for class_id in part.answer.class_ids[part.start : part.start + part.size]]


def check_answers(world: World) -> None:
    retrier_died = "fault on retrier" in " ".join(world.log)
    for request in world.requests:
        if request.is_lost:
            continue
        assert request.refused or request.parts, f"no answer: {request}"
        assert request.answered <= request.deadline + 1, f"late: {request} {request.answered}"
        if any(isinstance(part, BaseException) for part in request.parts):
            failed = [part for part in request.parts if isinstance(part, ModelFailed)]
            assert not failed or retrier_died or BAD & set(request.images), f"given up: {request}"
            continue
        for image, found, expected in zip(request.images, outcome(request), classes_of(request.images), strict=False):
            assert found == expected or (found in (FAILED, CRASHED) and image in BAD), f"wrong: {request}"
        assert request.refused or len(outcome(request)) == len(request.images), f"short: {request}"


def check_losses(world: World) -> None:
    """Where at most one worker died, and nothing was stopped, who had time enough got what they asked for."""
    events = " ".join(world.log)
    asked = {image for request in world.requests for image in request.images}
    if events.count("worker died") > 1 or "stop" in events or asked & {HANG, POISON}:
        return
    for request in world.requests:
        had_time = request.deadline - request.asked >= 1.0 and not request.caller.disconnected
        # A new worker loads the newest version alone; who waits for the one before is told to ask again.
        was_withdrawn = any(isinstance(part, Unavailable) for part in request.parts)
        if had_time and not request.is_lost and not request.refused and not was_withdrawn:
            assert len(outcome(request)) == len(request.images), f"lost: {request}"


def check_leaks(world: World) -> None:
    for dispatcher in world.fronts():
        admission = dispatcher.admission
        assert (admission.depth, admission._requests) == (0, 0)
        assert not [b for b in admission._backlogs.values() if b.images or b.requests]
        assert not dispatcher._chunks
        assert not list(dispatcher._queues.in_turn())
        assert not [worker.blocks for worker in dispatcher._workers if worker.blocks]
        assert not dispatcher._retries.blocks
        assert dispatcher.waiting() == {}
    for process in world.processes.values():
        assert process.is_alive()
        assert not process.is_stopped
        if isinstance(process, simulated.WorkerProcess):
            assert process.worker
            assert not process.worker._jobs
            assert not process.worker._underway
            assert not process.worker._retired.keys() - process.worker._models.keys()
        if isinstance(process, simulated.RetrierProcess):
            assert process.retrier
            assert not process.retrier._lines
    assert not world.children
    assert not world.loop.errors


def is_at_rest(world: World) -> bool:
    """Return whether nothing more will happen. What is under way is a leak only in the end."""
    try:
        check_leaks(world)
    except AssertionError:
        return False
    all_served = [dispatcher.served for dispatcher in world.fronts()]
    known = [{m.name for m in s.models()} | {absent.name for absent in s.in_quarantine()} for s in all_served]
    is_linked = all(dispatcher._retries._connected for dispatcher in world.fronts())
    return is_linked and not world.has_plans() and all(names == {"a", "b"} for names in known)


def check_service(world: World) -> None:
    """Ask every HTTP process for every model once more."""
    before = len(world.requests)
    for name in "ab":
        for _ in range(3):
            world.ask(name, bytes([7, 8]), 1.5)
    world.run_until(lambda: is_at_rest(world), 1.6)
    for request in world.requests[before:]:
        assert outcome(request) == [1, 0] or "quarantine" in request.refused, f"not served: {request}"
        assert request.name == "a" or not request.refused, f"the innocent one is not served: {request}"


def check_memory(world: World) -> None:
    """Ask each HTTP process once more for an image that it knows to end a process: no worker may get it."""
    before, deaths = len(world.requests), " ".join(world.log).count("worker died: crashed")
    for front in world.http_processes():
        served = {model.key for model in front.dispatcher.served.models() if model.default}
        crashed = [r for r in front.requests if r.images[-1] == POISON and outcome(r)[-1:] == [CRASHED]]
        if any(request.key in served for request in crashed):
            world.ask("a", bytes([POISON]), 1.5, front=front)
    world.run_until(lambda: is_at_rest(world), 1.6)
    for request in world.requests[before:]:
        assert outcome(request) == [CRASHED] or "quarantine" in request.refused, f"not known: {request}"
    assert " ".join(world.log).count("worker died: crashed") == deaths, "a worker got a known culprit"
    assert len(set(world.crashes)) == len(world.crashes), "a retrier tried a known culprit again"


def live(seed: int, folder: Path, manifests: list[ModelManifest]) -> World:
    """Live through the schedule of one seed and check it."""
    (folder / "deaths.jsonl").unlink(missing_ok=True)
    world = World(seed, folder, manifests)
    try:
        world.supervisor.start()
        world.plan()
        world.run_until(lambda: is_at_rest(world), 5.0)
        check_answers(world)
        check_losses(world)
        check_leaks(world)
        check_service(world)
        check_memory(world)
        check_answers(world)
        check_leaks(world)
    except Exception as error:
        raise AssertionError(
            f"the schedule of SIMULATION_SEED={seed} at {CLOCK.now - 1000:.3f} s: {error!r}\n" + "\n".join(world.log)
        ) from error
    finally:
        world.close()
    return world


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("fake_system")
def test_whatever_fails_every_request_is_answered_once_in_time_and_nothing_leaks(
    tmp_path: Path, manifests: list[ModelManifest], times: int
) -> None:
    seeds = [int(SEED)] if SEED else range(SCHEDULES * times)

    for seed in seeds:
        live(seed, tmp_path, manifests)


@pytest.mark.usefixtures("fake_system")
def test_a_seed_replays_its_schedule(tmp_path: Path, manifests: list[ModelManifest]) -> None:
    seed = random.Random(1).randrange(1000)

    first, second = (
        [(outcome(request), request.refused, request.answered) for request in live(seed, tmp_path, manifests).requests]
        for _ in range(2)
    )

    assert first == second
