"""What one HTTP process accepts leaves in blocks and is answered exactly once, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest

from service.engine import messages
from service.engine.absent import Absent
from service.engine.admission import Backlog
from service.engine.dispatcher import MAX_ATTEMPTS, SHORT_SECONDS, Dispatcher
from service.engine.messages import BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.engine.workers import BLOCKS_IN_FLIGHT
from service.problems import ClientGone, DeadlineExceeded, ModelFailed, NotFound, QueueFull, Unavailable
from tests.registries import publish
from tests.service.engine.fake_worker import SECONDS, FakeWorker, Received, listening
from tests.waiting import until

BATCH = 16
QUEUE = 100
CHUNK = BATCH // 4
ROWS = ("rows", 1)


class Caller:
    def __init__(self) -> None:
        self.disconnected = False


class House:
    """A dispatcher and the fake workers that it knows."""

    def __init__(self, dispatcher: Dispatcher, workers: list[FakeWorker]) -> None:
        self.dispatcher = dispatcher
        self.workers = workers
        self.worker = workers[0]
        self.answers: list[tuple[str, BlockAnswer]] = []

    def ask(
        self,
        *images: int,
        model: str = "rows",
        seconds: float = 60,
        bulk: bool = False,
        caller: Caller | None = None,
    ) -> list[asyncio.Future[Part]]:
        data = b"".join(bytes([image]) + bytes(783) for image in images)
        served = self.dispatcher.served.resolve(model)
        deadline = time.monotonic() + seconds
        return self.dispatcher.submit(served, data, len(images), deadline, caller or Caller(), bulk=bulk)

    def ask_one(self, image: int) -> asyncio.Future[Part]:
        """Ask as requests of one image do, which need no list of futures."""
        future: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
        served = self.dispatcher.served.resolve("rows")
        data = bytes([image]) + bytes(783)
        self.dispatcher.submit_chunk(served, data, 1, time.monotonic() + 60, Caller(), future)
        return future

    async def fill(self) -> list[Received]:
        """Give the worker as many blocks as it may hold."""
        blocks = []
        for _ in range(BLOCKS_IN_FLIGHT):
            self.ask(0)
            blocks.append(await self.worker.block())
        return blocks


async def classes(futures: list[asyncio.Future[Part]]) -> list[int]:
    """The classes in the answer of one request."""
    parts = await asyncio.wait_for(asyncio.gather(*futures), SECONDS)
    return [class_id for part in parts for class_id in part.answer.class_ids[part.start : part.start + part.size]]


async def outcome(future: Awaitable[object]) -> BaseException | object:
    return (await asyncio.wait_for(asyncio.gather(future, return_exceptions=True), SECONDS))[0]


@pytest.fixture(scope="module")
def announced(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ServedModel]:
    root = tmp_path_factory.mktemp("registry")
    return {handle: ServedModel(publish(root, name), default=True) for handle, name in enumerate(("rows", "photos"))}


@pytest.fixture
def run(
    tmp_path: Path, announced: dict[int, ServedModel]
) -> Callable[[Callable[[House], Coroutine[None, None, None]]], None]:
    """Runs a story in a house with a worker (or several) that has announced its models."""

    @contextlib.asynccontextmanager
    async def house(workers: int, short_seconds: float) -> AsyncIterator[House]:
        async with contextlib.AsyncExitStack() as stack:
            fakes = [
                await stack.enter_async_context(listening(tmp_path / f"{i}.sock", announced)) for i in range(workers)
            ]

            def on_answer(model: ServedModel, answer: BlockAnswer) -> None:
                house.answers.append((model.name, answer))  # type: ignore[attr-defined]

            dispatcher = Dispatcher(
                [fake.path for fake in fakes],
                default_model="rows",
                max_batch_size=BATCH,
                max_queue=QUEUE,
                on_answer=on_answer,
                short_seconds=short_seconds,
            )
            house = House(dispatcher, fakes)
            dispatcher.open()
            try:
                await until(lambda: all(worker.connected for worker in dispatcher._workers))
                yield house
            finally:
                await dispatcher.close()

    def run(
        story: Callable[[House], Coroutine[None, None, None]], *, workers: int = 1, short_seconds: float = SHORT_SECONDS
    ) -> None:
        async def told() -> None:
            async with house(workers, short_seconds) as built:
                await story(built)

        asyncio.run(told())

    return run


Run = Callable[..., None]

# Coalescing


def test_requests_that_come_together_leave_as_one_block_and_each_gets_its_part(run: Run) -> None:
    async def story(house: House) -> None:
        requests = [house.ask(7), house.ask(1, 2), house.ask(5)]

        block = await house.worker.block()
        house.worker.answer(block)

        assert block.images == [7, 1, 2, 5]
        assert [await classes(request) for request in requests] == [[7], [1, 2], [5]]
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_no_more_blocks_are_in_flight_than_a_worker_may_hold(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()

        waiting = [house.ask(image) for image in (1, 2, 3)]
        while_full = await house.worker.blocks()
        house.worker.answer(held[0])
        block = await house.worker.block()
        house.worker.answer(block)

        assert while_full == []
        assert block.images == [1, 2, 3]
        assert [await classes(request) for request in waiting] == [[1], [2], [3]]

    run(story)


def test_a_block_holds_no_more_images_than_a_batch(run: Run) -> None:
    async def story(house: House) -> None:
        for image in range(BATCH + 3):
            house.ask(image)

        blocks = [await house.worker.block() for _ in range(2)]

        assert [len(block.images) for block in blocks] == [BATCH, 3]

    run(story)


def test_an_idle_worker_gets_a_chunks_worth_at_once_and_what_comes_meanwhile_follows_as_one_block(run: Run) -> None:
    async def story(house: House) -> None:
        asked = [house.ask_one(image) for image in range(CHUNK + 3)]  # before the loop turns

        blocks = [await house.worker.block() for _ in range(2)]
        for block in blocks:
            house.worker.answer(block)

        assert [block.images for block in blocks] == [[*range(CHUNK)], [*range(CHUNK, CHUNK + 3)]]
        assert await classes(asked) == [*range(CHUNK + 3)]

    run(story)


def test_a_large_request_to_an_idle_worker_waits_for_those_that_come_together_with_it(run: Run) -> None:
    async def story(house: House) -> None:
        house.ask(*range(2 * CHUNK))
        house.ask(100)

        assert (await house.worker.block()).images == [*range(CHUNK), 100, *range(CHUNK, 2 * CHUNK)]

    run(story)


async def behind_a_block_of_two(house: House) -> Received:
    """A block of two images has left, and one more image waits behind it."""
    for image in range(2):
        house.ask(image)
    first = await house.worker.block()
    house.ask(2)
    return first


def test_what_waits_behind_a_block_that_left_just_now_grows_until_it_is_as_large(run: Run) -> None:
    async def story(house: House) -> None:
        first = await behind_a_block_of_two(house)
        await asyncio.sleep(0.05)
        house.ask(3)
        second = await house.worker.block()

        assert [len(first.images), len(second.images)] == [2, 2]

    run(story, short_seconds=60.0)  # a block is expected back for as long as the test lasts


def test_what_waits_behind_a_block_leaves_when_that_is_answered(run: Run) -> None:
    async def story(house: House) -> None:
        first = await behind_a_block_of_two(house)
        await asyncio.sleep(0.05)
        house.worker.answer(first)

        assert len((await house.worker.block()).images) == 1

    run(story, short_seconds=60.0)  # a block is expected back for as long as the test lasts


def test_what_waits_behind_a_block_that_takes_long_is_sent_ahead(run: Run) -> None:
    async def story(house: House) -> None:
        await behind_a_block_of_two(house)

        assert len((await house.worker.block()).images) == 1

    run(story)


def test_a_blocks_deadline_is_its_latest_one(run: Run) -> None:
    async def story(house: House) -> None:
        now = time.monotonic()
        for seconds in (20, 50, 30):
            house.ask(0, seconds=seconds)

        block = await house.worker.block()

        assert block.deadline == pytest.approx(now + 50, abs=5)

    run(story)


def test_who_is_told_of_answers_hears_of_each_block(run: Run) -> None:
    async def story(house: House) -> None:
        request = house.ask(3, 4)
        house.worker.answer(await house.worker.block())
        await classes(request)

        ((name, answer),) = house.answers
        assert (name, answer.class_ids, answer.queue_seconds, answer.compute_seconds) == ("rows", [3, 4], 0.25, 2**-8)

    run(story)


# Turns


def test_a_flood_for_one_model_does_not_keep_another_waiting(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        for _ in range(3 * BATCH):
            house.ask(1)
        house.ask(2, model="photos")

        turns = []
        for block in held:
            house.worker.answer(block)
            turns.append(await house.worker.block())
        house.worker.answer(turns[0])
        turns.append(await house.worker.block())

        assert [block.handle for block in turns] == [0, 1, 0]

    run(story)


def test_a_large_request_is_cut_and_others_fit_between_its_parts(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        large = house.ask(*range(5 * CHUNK))
        house.ask(100)
        house.ask(101)

        house.worker.answer(held[0])
        first = await house.worker.block()
        house.worker.answer(first)

        assert first.images == [*range(CHUNK), 100, 101, *range(CHUNK, 3 * CHUNK)]
        second = await house.worker.block()
        house.worker.answer(second)
        assert len(large) == 5
        assert await classes(large) == list(range(5 * CHUNK))

    run(story)


def test_bulk_leaves_after_what_is_urgent_and_one_block_at_a_time(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        for _ in range(2 * BATCH):
            house.ask(1, bulk=True)
        house.ask(2)

        for block in held:
            house.worker.answer(block)
        urgent = await house.worker.block()
        while_one_is_held = await house.worker.blocks()
        house.worker.answer(urgent)
        bulk = await house.worker.block()
        while_bulk_is_held = await house.worker.blocks()
        house.ask(3)

        assert urgent.images == [2]
        assert while_one_is_held == []
        assert bulk.images == [1] * BATCH
        assert while_bulk_is_held == []
        assert (await house.worker.block()).images == [3]

    run(story)


def test_blocks_for_a_slow_model_are_small_so_that_other_models_have_their_turns_soon(run: Run) -> None:
    async def story(house: House) -> None:
        house.ask(0)
        house.worker.answer(await house.worker.block(), compute_seconds=60)
        held = await house.fill()
        house.ask(*range(2 * BATCH))
        house.worker.answer(held[0], compute_seconds=60)

        assert len((await house.worker.block()).images) == CHUNK

    run(story)


# Workers that come and go


def test_what_a_dead_worker_held_comes_again_first_and_in_order(run: Run) -> None:
    async def story(house: House) -> None:
        requests = [house.ask(1), house.ask(2)]
        await house.worker.block()
        requests += [house.ask(3), house.ask(4)]
        await house.worker.block()
        requests.append(house.ask(5))

        await house.worker.die()
        again = await house.worker.block()
        house.worker.answer(again)

        assert (again.connection, again.images) == (1, [1, 2, 3, 4, 5])
        assert [await classes(request) for request in requests] == [[1], [2], [3], [4], [5]]
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_a_block_that_workers_keep_dying_of_is_given_up(run: Run) -> None:
    async def story(house: House) -> None:
        (deadly,) = house.ask(1)
        for _ in range(MAX_ATTEMPTS):
            await house.worker.block()
            await house.worker.die()

        failure = await outcome(deadly)
        (harmless,) = house.ask(2)
        house.worker.answer(await house.worker.block())

        assert isinstance(failure, ModelFailed)
        assert await classes([harmless]) == [2]

    run(story)


def test_a_dead_workers_block_is_computed_by_another(run: Run) -> None:
    async def story(house: House) -> None:
        request = house.ask(1)
        first, second = house.workers
        taken, other = (first, second) if await first.blocks() else (second, first)
        await taken.close()

        house.worker = other
        block = await other.block()
        other.answer(block)

        assert await classes(request) == [1]

    run(story, workers=2)


def test_the_worker_that_holds_least_gets_the_next_block(run: Run) -> None:
    async def story(house: House) -> None:
        held = []
        for _ in range(2):
            house.ask(0)
            held.append([len(await worker.blocks()) for worker in house.workers])

        assert sorted(held) == [[0, 1], [1, 0]]

    run(story, workers=2)


def test_what_is_asked_while_no_worker_is_there_waits_for_one(run: Run) -> None:
    async def story(house: House) -> None:
        served = house.dispatcher.served.resolve("rows")
        await house.worker.close()
        ready_without = house.dispatcher.is_ready(served)
        request = house.ask(4)
        await asyncio.sleep(0.02)

        await house.worker.open()
        house.worker.answer(await house.worker.block())

        assert not ready_without
        assert await classes(request) == [4]
        assert house.dispatcher.is_ready(served)

    run(story)


def test_before_a_worker_has_spoken_nothing_is_served(tmp_path: Path) -> None:
    async def story() -> None:
        dispatcher = Dispatcher([str(tmp_path / "w.sock")], default_model="rows", max_batch_size=1, max_queue=1)
        dispatcher.open()
        try:
            assert dispatcher.served.models() == []
            with pytest.raises(Unavailable):
                dispatcher.served.resolve()
        finally:
            await dispatcher.close()

    asyncio.run(story())


def test_a_worker_that_announces_another_version_changes_what_is_served(
    run: Run, announced: dict[int, ServedModel]
) -> None:
    async def story(house: House) -> None:
        house.worker.announce({1: announced[1]})
        await until(lambda: len(house.dispatcher.served.models()) == 1)

        assert [model.name for model in house.dispatcher.served.models()] == ["photos"]

    run(story)


def test_what_a_worker_loads_or_refused_is_known_with_what_is_served(
    run: Run, announced: dict[int, ServedModel]
) -> None:
    async def story(house: House) -> None:
        absent = (
            Absent(name="rows", version=9, state="loading"),
            Absent(name="rows", version=8, state="refused", reason="it is bad"),
        )
        house.worker.announce(announced, absent)
        await until(lambda: len(house.dispatcher.served.absent()) == 2)

        with pytest.raises(Unavailable, match="rows@9 must be loaded"):
            house.dispatcher.served.resolve("rows", "9")
        with pytest.raises(NotFound, match="refused rows@8: it is bad"):
            house.dispatcher.served.resolve("rows", "8")

    run(story)


def test_a_refused_block_is_unavailable_or_late(run: Run) -> None:
    async def story(house: House) -> None:
        (refused,) = house.ask(1)
        house.worker.refuse(await house.worker.block(), "the worker does not serve this version")
        (late,) = house.ask(2, seconds=0.001)
        block = await house.worker.block()
        await asyncio.sleep(0.002)
        house.worker.refuse(block, "the deadline passed")

        failures = [await outcome(refused), await outcome(late)]

        assert isinstance(failures[0], Unavailable)
        assert "Given: the worker does not serve this version" in failures[0].detail
        assert isinstance(failures[1], DeadlineExceeded)
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_what_a_worker_held_that_said_goodbye_comes_again_however_often(run: Run) -> None:
    async def story(house: House) -> None:
        request = house.ask(1)
        for _ in range(MAX_ATTEMPTS + 1):
            await house.worker.block()
            house.worker.send(messages.pack(messages.Kind.GOODBYE, 0, b""))
            await house.worker.die()
        house.worker.answer(await house.worker.block())

        assert await classes(request) == [1]

    run(story)


# Quarantine


def test_what_waits_for_a_version_is_answered_when_it_comes_into_quarantine(
    run: Run, announced: dict[int, ServedModel]
) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        (waiting,) = house.ask(1)
        house.dispatcher.quarantine({announced[0].identity: "it ended 3 processes"})
        (other,) = house.ask(2, model="photos")

        failure = await outcome(waiting)
        house.worker.answer(held[0])
        house.worker.answer(await house.worker.block())

        assert isinstance(failure, Unavailable)
        assert failure.detail == "rows@1 must not be in quarantine. Given: it ended 3 processes"
        assert await classes([other]) == [2]

    run(story)


@pytest.mark.parametrize("images", [1, CHUNK + 1])
def test_what_is_asked_of_a_version_that_went_while_the_body_came_is_refused_at_once(
    run: Run, announced: dict[int, ServedModel], images: int
) -> None:
    async def story(house: House) -> None:
        dispatcher = house.dispatcher
        rows, photos = (dispatcher.served.resolve(name) for name in ("rows", "photos"))

        def ask(model: ServedModel) -> None:
            data, deadline = bytes(images * model.input_bytes), time.monotonic() + 60
            dispatcher.submit(model, data, images, deadline, Caller())
            dispatcher.submit_chunk(model, data[: model.input_bytes], 1, deadline, Caller(), asyncio.Future())

        dispatcher.quarantine({rows.identity: "it ended 3 processes"})
        with pytest.raises(Unavailable, match=r"rows@1 must not be in quarantine\. Given: it ended 3 processes"):
            ask(rows)
        house.worker.announce({0: announced[0]})
        await until(lambda: not dispatcher.served.has(photos.key))
        with pytest.raises(Unavailable, match="it was withdrawn; ask again"):
            ask(photos)

        assert dispatcher.admission.depth == 0

    run(story)


def test_what_a_worker_held_of_a_version_that_went_is_answered_when_it_dies(
    run: Run, announced: dict[int, ServedModel]
) -> None:
    async def story(house: House) -> None:
        (held,) = house.ask(1)
        await house.worker.block()
        house.worker.announce({1: announced[1]})
        await until(lambda: not house.dispatcher.served.has(ROWS))
        house.worker.send(messages.pack(messages.Kind.GOODBYE, 0, b""))

        failure = await outcome(held)

        assert isinstance(failure, Unavailable)
        assert "it was withdrawn; ask again" in failure.detail

    run(story)


# Deadlines, limits, and those who leave


def test_a_request_is_answered_by_its_deadline_wherever_it_is(run: Run) -> None:
    async def story(house: House) -> None:
        sent = house.ask(1, seconds=0.05)
        await house.worker.block()
        house.ask(2)
        await house.worker.block()
        waiting = house.ask(*range(3 * CHUNK), seconds=0.05)

        failures = [await outcome(future) for future in (*sent, *waiting)]

        assert [type(failure) for failure in failures] == [DeadlineExceeded] * 4
        assert house.dispatcher.admission.depth == 1

    run(story)


def test_nobody_is_looked_for_who_is_late_while_nobody_waits(run: Run) -> None:
    async def story(house: House) -> None:
        assert house.dispatcher._next_sweep is None
        for _ in range(2):
            (late,) = house.ask(1, seconds=0.05)
            assert isinstance(await outcome(late), DeadlineExceeded)
            await until(lambda: house.dispatcher._next_sweep is None)

    run(story)


def test_an_answer_that_comes_too_late_harms_nobody(run: Run) -> None:
    async def story(house: House) -> None:
        (late,) = house.ask(1, seconds=0.01)
        in_time = house.ask(2)
        block = await house.worker.block()
        failure = await outcome(late)

        house.worker.answer(block)

        assert isinstance(failure, DeadlineExceeded)
        assert await classes(in_time) == [2]
        assert house.dispatcher.admission.depth == 0

    run(story)


def test_what_is_computed_too_late_shows_how_fast_the_model_is(run: Run) -> None:
    async def story(house: House) -> None:
        (late,) = house.ask(1, seconds=0.01)
        block = await house.worker.block()
        assert isinstance(await outcome(late), DeadlineExceeded)

        house.worker.answer(block)

        await until(lambda: house.dispatcher.admission.backlog(ROWS).computed == 1)

    run(story)


def test_the_time_for_which_a_worker_hung_says_nothing_of_the_model(run: Run) -> None:
    async def story(house: House) -> None:
        backlog = house.dispatcher.admission.backlog(ROWS)
        backlog.busy_seconds = 5.0

        await house.worker.die()

        await until(lambda: not backlog.busy_seconds)

    run(story)


def test_what_is_late_in_the_queue_never_reaches_a_worker(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        (late,) = house.ask(1, seconds=0.01)
        house.ask(2)
        await outcome(late)

        house.worker.answer(held[0])

        assert (await house.worker.block()).images == [2]

    run(story)


async def keep_busy_until_the_rate_is_known(house: House) -> Backlog:
    """Answer while more waits, so that the dispatcher learns how fast the model is."""
    admission = house.dispatcher.admission
    backlog = admission.backlog(ROWS)
    async with asyncio.timeout(SECONDS):
        while not backlog.rate:
            while admission.depth < QUEUE - 1:
                house.ask(1)
            house.worker.answer(await house.worker.block())
    return backlog


def test_a_backlog_that_would_outlast_the_deadline_is_refused_before_the_queue_is_full(run: Run) -> None:
    async def story(house: House) -> None:
        await keep_busy_until_the_rate_is_known(house)

        house.dispatcher.admission.admit(ROWS, 1, 3600)
        with pytest.raises(QueueFull, match="answer come within") as refusal:
            house.dispatcher.admission.admit(ROWS, 1, 0.001)

        assert 1 <= int(refusal.value.headers["retry-after"]) <= 60

    run(story)


def test_how_fast_one_model_is_says_nothing_about_another(run: Run) -> None:
    async def story(house: House) -> None:
        await keep_busy_until_the_rate_is_known(house)
        house.ask(1, model="photos")

        house.dispatcher.admission.admit(("photos", 1), 1, 0.001)

        assert house.dispatcher.admission.backlog(("photos", 1)).rate == 0

    run(story)


def test_a_batch_behind_a_backlog_must_be_computed_before_the_deadline_too(run: Run) -> None:
    async def story(house: House) -> None:
        backlog = await keep_busy_until_the_rate_is_known(house)
        assert backlog.images
        backlog.rate = 1e6  # the backlog alone is nothing
        computing = backlog.compute_seconds

        house.dispatcher.admission.admit(ROWS, 1, 2 * computing)
        with pytest.raises(QueueFull, match="answer come within"):
            house.dispatcher.admission.admit(ROWS, 1, computing / 2)

    run(story)


def test_a_model_whose_queue_runs_empty_is_not_taken_for_slow(run: Run) -> None:
    async def story(house: House) -> None:
        end = time.monotonic() + 0.35  # three looks at what was answered
        while time.monotonic() < end:
            (request,) = house.ask(1)
            house.worker.answer(await house.worker.block())
            await request
            await asyncio.sleep(0.01)

        assert house.dispatcher.admission.backlog(ROWS).rate == 0

    run(story)


def test_while_a_worker_is_being_replaced_its_silence_is_not_taken_for_slowness(run: Run) -> None:
    async def story(house: House) -> None:
        backlog = await keep_busy_until_the_rate_is_known(house)
        rate = backlog.rate

        await house.worker.close()
        await asyncio.sleep(0.5)  # five looks at what was answered

        assert backlog.images
        assert backlog.rate == rate

    run(story)


def test_what_waits_is_counted_until_each_request_has_ended_however_it_ends(run: Run) -> None:
    async def story(house: House) -> None:
        backlog = house.dispatcher.admission.backlog(ROWS)
        answered, late = house.ask(*range(3 * CHUNK)), house.ask(1, 2, seconds=0.05)
        leaving = Caller()
        house.ask(*range(2 * CHUNK), caller=leaving)
        counted = backlog.requests, backlog.images

        for _ in range(2):
            house.worker.answer(await house.worker.block())
        await classes(answered)
        leaving.disconnected = True
        await asyncio.gather(*late, return_exceptions=True)
        await until(lambda: not backlog.images)

        assert counted == (3, 5 * CHUNK + 2)
        assert (backlog.requests, house.dispatcher.admission.depth) == (0, 0)

    run(story)


def test_what_a_caller_left_behind_is_dropped(run: Run) -> None:
    async def story(house: House) -> None:
        held = await house.fill()
        leaving = Caller()
        abandoned = house.ask(*range(2 * CHUNK), caller=leaving)
        house.ask(2)
        leaving.disconnected = True

        house.worker.answer(held[0])
        block = await house.worker.block()
        failures = [await outcome(future) for future in abandoned]

        assert block.images == [2]
        assert [type(failure) for failure in failures] == [ClientGone] * 2
        assert house.dispatcher.admission.depth == 2

    run(story)


def test_a_caller_who_leaves_while_nothing_moves_frees_the_queue_all_the_same(run: Run) -> None:
    async def story(house: House) -> None:
        await house.fill()
        leaving = Caller()
        house.ask(*range(2 * CHUNK), caller=leaving)

        leaving.disconnected = True

        await until(lambda: house.dispatcher.admission.depth == BLOCKS_IN_FLIGHT)

    run(story)


def test_requests_of_many_sizes_are_all_answered_once_while_workers_die(run: Run) -> None:
    async def story(house: House) -> None:
        async def serve(worker: FakeWorker) -> None:
            number = 0
            while True:
                block = await worker.block()
                number += 1
                if number % 7 == 3:
                    await worker.die()
                elif block.connection == worker.connections - 1:
                    worker.answer(block)

        serving = [asyncio.create_task(serve(worker)) for worker in house.workers]
        asked = [list(range(i % 9 + 1)) for i in range(60)]
        requests = [
            house.ask(*images, model=("rows", "photos")[i % 2], bulk=i % 3 == 0) for i, images in enumerate(asked)
        ]
        outcomes = [[await outcome(future) for future in request] for request in requests]
        for task in serving:
            task.cancel()

        for images, parts in zip(asked, outcomes, strict=True):
            given_up = [part for part in parts if isinstance(part, ModelFailed)]
            assert given_up or await classes([_done(part) for part in parts]) == images
        assert house.dispatcher.admission.depth == 0

    run(story, workers=2)


def _done(part: object) -> asyncio.Future[Part]:
    future: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
    assert isinstance(part, Part)
    future.set_result(part)
    return future
