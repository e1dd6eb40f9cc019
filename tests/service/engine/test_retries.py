"""What a dead worker held is computed by the retrier, and an image that ends a process there fails alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from service.engine.dispatcher import Dispatcher
from service.engine.messages import CRASHED
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import Unavailable
from tests.registries import publish
from tests.service.engine.fake_worker import SECONDS, FakeWorker, listening
from tests.waiting import until


class Caller:
    disconnected = False


class House:
    """A dispatcher, a worker and a retrier."""

    def __init__(self, dispatcher: Dispatcher, worker: FakeWorker, retrier: FakeWorker) -> None:
        self.dispatcher = dispatcher
        self.worker = worker
        self.retrier = retrier

    def ask(self, *images: int, seconds: float = 60) -> list[asyncio.Future[Part]]:
        data = b"".join(bytes([image]) + bytes(783) for image in images)
        served = self.dispatcher.served.resolve("rows")
        return self.dispatcher.submit(served, data, len(images), time.monotonic() + seconds, Caller())

    async def lose(self) -> None:
        """Have the worker die with the block that it is sent."""
        await self.worker.block()
        await self.worker.die()


async def classes(futures: list[asyncio.Future[Part]]) -> list[int]:
    parts = await asyncio.wait_for(asyncio.gather(*futures), SECONDS)
    return [class_id for part in parts for class_id in part.answer.class_ids[part.start : part.start + part.size]]


@pytest.fixture(scope="module")
def announced(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ServedModel]:
    return {0: ServedModel(publish(tmp_path_factory.mktemp("registry")), default=True)}


Run = Callable[[Callable[[House], Coroutine[None, None, None]]], None]


@pytest.fixture
def run(tmp_path: Path, announced: dict[int, ServedModel]) -> Run:
    @contextlib.asynccontextmanager
    async def house() -> AsyncIterator[House]:
        async with (
            listening(tmp_path / "worker.sock", announced) as worker,
            listening(tmp_path / "retrier.sock", {}) as retrier,
        ):
            dispatcher = Dispatcher(
                [worker.path], retrier=retrier.path, default_model="rows", max_batch_size=16, max_queue=100
            )
            dispatcher.open()
            try:
                await until(lambda: dispatcher.served.models() and dispatcher._retries._connected)
                yield House(dispatcher, worker, retrier)
            finally:
                await dispatcher.close()

    def run(story: Callable[[House], Coroutine[None, None, None]]) -> None:
        async def told() -> None:
            async with house() as built:
                await story(built)

        asyncio.run(told())

    return run


def test_a_lost_block_is_retried_and_the_worker_serves_others_meanwhile(run: Run) -> None:
    async def story(house: House) -> None:
        lost = [house.ask(1), house.ask(2, 3)]
        await house.lose()
        retry = await house.retrier.block()
        other = house.ask(4)
        house.worker.answer(await house.worker.block())
        others_answer = await classes(other)
        house.retrier.answer(retry)

        assert others_answer == [4]
        assert retry.images == [1, 2, 3]
        assert [await classes(request) for request in lost] == [[1], [2, 3]]
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_an_image_that_ended_a_process_fails_alone_and_never_goes_to_a_worker_again(run: Run) -> None:
    async def story(house: House) -> None:
        innocent, guilty = house.ask(1, 2), house.ask(9)
        await house.lose()
        house.retrier.answer(await house.retrier.block(), crashed=[9])
        first = await classes(innocent), await classes(guilty)
        again, other = house.ask(9), house.ask(3)
        house.worker.answer(await house.worker.block())
        house.retrier.answer(await house.retrier.block(), crashed=[9])

        assert first == ([1, 2], [CRASHED])
        assert (await classes(other), await classes(again)) == ([3], [CRASHED])
        assert await house.worker.blocks() == []

    run(story)


def test_what_the_retrier_refuses_goes_to_a_worker_again(run: Run) -> None:
    async def story(house: House) -> None:
        request = house.ask(1)
        await house.lose()
        house.retrier.refuse(await house.retrier.block(), "the artifact must be there")
        house.worker.answer(await house.worker.block())

        assert await classes(request) == [1]

    run(story)


def test_what_a_dead_retrier_held_goes_to_a_worker_again(run: Run) -> None:
    async def story(house: House) -> None:
        request = house.ask(1, 2)
        await house.lose()
        await house.retrier.block()
        await house.retrier.die()
        house.worker.answer(await house.worker.block())

        assert await classes(request) == [1, 2]

    run(story)


def test_what_nobody_waits_for_is_not_retried(run: Run) -> None:
    async def story(house: House) -> None:
        late = house.ask(1, seconds=0.01)
        await house.worker.block()
        await asyncio.gather(*late, return_exceptions=True)
        await house.worker.die()

        assert await house.retrier.blocks() == []
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_what_returns_after_its_version_came_into_quarantine_is_answered(
    run: Run, announced: dict[int, ServedModel]
) -> None:
    async def story(house: House) -> None:
        (request,) = house.ask(1)
        await house.lose()
        block = await house.retrier.block()
        house.dispatcher.quarantine({announced[0].identity: "it ended 3 processes"})
        house.retrier.refuse(block, "no")

        with pytest.raises(Unavailable, match="must not be in quarantine"):
            await asyncio.wait_for(request, SECONDS)

    run(story)


def test_what_is_retried_counts_as_waiting(run: Run) -> None:
    async def story(house: House) -> None:
        house.ask(1, 2)
        await house.lose()
        await house.retrier.block()

        assert house.dispatcher.waiting()["rows"][0] == 2

    run(story)
