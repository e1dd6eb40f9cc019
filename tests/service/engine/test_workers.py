from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from service.contract.manifest import ModelManifest
from service.engine.dispatcher import Dispatcher
from service.engine.queues import Queue
from service.engine.retries import SentBlock
from service.engine.served_models import ServedModel
from service.engine.workers import BLOCKS_IN_FLIGHT, BULK_BLOCKS_IN_FLIGHT, Worker, Workers
from tests.registries import publish

Make = Callable[..., tuple[Workers, list[Worker]]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    return publish(tmp_path_factory.mktemp("registry"), "rows")


@pytest.fixture
def workers(manifest: ModelManifest) -> Make:
    """Workers of some groups, of which those told have announced a model."""

    def make(*groups: int, spoke: int | None = None) -> tuple[Workers, list[Worker]]:
        listener = Dispatcher([], default_model="rows", max_batch_size=8, max_queue=8)
        found = Workers([f"{place}.sock" for place in range(len(groups))], groups, listener)
        each = list(found)
        for worker in each[:spoke]:
            worker.announced({7: ServedModel(manifest, default=True)}, ())
        return found, each

    return make


def holding(worker: Worker, queue: Queue, blocks: int) -> list[SentBlock]:
    """Give a worker blocks of one input."""
    model = worker.models[queue.key]
    sent = [SentBlock(model, queue, [], 1, time.monotonic()) for _ in range(blocks)]
    worker.blocks = dict(enumerate(sent))
    return sent


def test_the_next_block_goes_to_the_worker_that_holds_the_fewest(workers: Make) -> None:
    found, (first, second) = workers(0, 0)
    queue = Queue(("rows", 1), bulk=False)
    holding(first, queue, 1)

    assert found.free_for(queue) is second
    holding(first, queue, BLOCKS_IN_FLIGHT)
    holding(second, queue, BLOCKS_IN_FLIGHT)
    assert found.free_for(queue) is None


def test_a_bulk_request_finds_less_room(workers: Make) -> None:
    _, (worker,) = workers(0)
    bulk, urgent = Queue(("rows", 1), bulk=True), Queue(("rows", 1), bulk=False)
    holding(worker, urgent, BULK_BLOCKS_IN_FLIGHT)

    assert worker.has_room_for(urgent)
    assert not worker.has_room_for(bulk)


def test_a_worker_has_room_for_what_it_serves_alone(workers: Make) -> None:
    found, _ = workers(0, spoke=1)

    assert found.any_serves(("rows", 1))
    assert not found.any_serves(("rows", 2))
    assert found.free_for(Queue(("rows", 2), bulk=False)) is None


def test_a_worker_that_left_gives_back_its_blocks_the_last_one_first(workers: Make) -> None:
    found, (worker,) = workers(0)
    queue = Queue(("rows", 1), bulk=False)
    sent = holding(worker, queue, 2)

    assert worker.left() == sent[::-1]
    assert not list(found.blocks())
    assert not found.any_connected()
    assert not found.any_serves(queue.key)


def test_every_group_has_spoken_once_one_worker_of_each_did(workers: Make) -> None:
    assert not workers(0, 0, 1, spoke=2)[0].all_groups_spoke
    assert workers(0, 1, 1, spoke=2)[0].all_groups_spoke
