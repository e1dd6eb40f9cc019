"""A link brings blocks to a worker and its answers back, and comes back itself when the worker does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from service.engine import messages
from service.engine.absent import Absent
from service.engine.messages import BlockAnswer
from service.engine.served_models import ServedModel
from service.engine.worker_link import WorkerLink
from tests.registries import publish
from tests.service.engine.fake_worker import FakeWorker, listening
from tests.waiting import until


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def models_announced(self, link: WorkerLink, models: dict[int, ServedModel], absent: tuple[Absent, ...]) -> None:
        self.told.append(("models", {handle: model.manifest for handle, model in models.items()}))

    def block_answered(self, link: WorkerLink, block_id: int, answer: BlockAnswer) -> None:
        self.told.append(("answer", block_id, answer.class_ids))

    def block_refused(self, link: WorkerLink, block_id: int, reason: str) -> None:
        self.told.append(("refusal", block_id, reason))

    def worker_leaving(self, link: WorkerLink) -> None:
        self.told.append(("leaving",))

    def worker_lost(self, link: WorkerLink) -> None:
        self.told.append(("lost",))


def served(root: Path) -> dict[int, ServedModel]:
    return {0: ServedModel(publish(root / "registry"), default=True)}


def block(block_id: int, *images: int) -> bytes:
    chunks = [bytes([image]) + bytes(783) for image in images]
    return messages.pack_block(block_id, 0, len(images), time.monotonic() + 60, chunks)


def test_what_the_worker_says_reaches_the_listener_in_order(tmp_path: Path) -> None:
    models = served(tmp_path)
    listener = Listener()

    async def talk() -> None:
        async with listening(tmp_path / "w.sock", models) as worker:
            link = WorkerLink(worker.path, listener)
            link.open()
            await until(lambda: len(listener.told) == 1)
            link.send(block(1, 7, 3))
            link.send(block(2, 5))
            worker.answer(await worker.block())
            worker.refuse(await worker.block(), "no")
            await until(lambda: len(listener.told) == 3)
            await link.close()

    asyncio.run(talk())

    manifests = {handle: model.manifest for handle, model in models.items()}
    assert listener.told[:3] == [("models", manifests), ("answer", 1, [7, 3]), ("refusal", 2, "no")]


def test_an_answer_that_arrives_byte_by_byte_is_one_answer(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> None:
        async with listening(tmp_path / "w.sock", {}) as worker:
            link = WorkerLink(worker.path, listener)
            link.open()
            await until(lambda: len(listener.told) == 1)
            whole = messages.pack(messages.Kind.REFUSAL, 9, b"why") * 2
            for i in range(len(whole)):
                worker.send(whole[i : i + 1])
                await asyncio.sleep(0)
            await until(lambda: len(listener.told) == 3)
            await link.close()

    asyncio.run(talk())

    assert listener.told[1:3] == [("refusal", 9, "why")] * 2


def test_the_listener_is_told_of_each_loss_and_hears_the_worker_again(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> None:
        async with listening(tmp_path / "w.sock", {}) as worker:
            link = WorkerLink(worker.path, listener)
            link.open()
            for times in (1, 3, 5):
                await until(lambda times=times: len(listener.told) == times)  # type: ignore[misc]
                await worker.die()
            await until(lambda: len(listener.told) == 7)
            await link.close()

    asyncio.run(talk())

    assert listener.told[:7] == [("models", {}), ("lost",)] * 3 + [("models", {})]


def test_half_a_message_of_a_dead_worker_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> None:
        async with listening(tmp_path / "w.sock", {}) as worker:
            link = WorkerLink(worker.path, listener)
            link.open()
            await until(lambda: len(listener.told) == 1)
            worker.send(messages.pack(messages.Kind.REFUSAL, 1, b"cut off")[:-3])
            await asyncio.sleep(0.02)
            await worker.die()
            await until(lambda: len(listener.told) == 3)
            await link.close()

    asyncio.run(talk())

    assert listener.told[:3] == [("models", {}), ("lost",), ("models", {})]


def test_a_worker_that_listens_late_is_found(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> None:
        link = WorkerLink(str(tmp_path / "w.sock"), listener)
        link.open()
        await asyncio.sleep(0.05)
        told_before = list(listener.told)
        async with listening(tmp_path / "w.sock", {}):
            await until(lambda: bool(listener.told))
            await link.close()
        assert told_before == []

    asyncio.run(talk())

    assert listener.told[0] == ("models", {})


def test_what_keeps_a_link_from_its_worker_is_no_context_of_errors_elsewhere(tmp_path: Path) -> None:
    async def context() -> BaseException | None:
        link = WorkerLink(str(tmp_path / "w.sock"), Listener())
        link.open()
        await asyncio.sleep(0.05)
        try:
            raise ValueError
        except ValueError as error:
            return error.__context__
        finally:
            await link.close()

    assert asyncio.run(context()) is None


def test_what_is_sent_without_a_worker_is_dropped(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> FakeWorker:
        link = WorkerLink(str(tmp_path / "w.sock"), listener)
        link.send(block(1, 1))
        link.open()
        async with listening(tmp_path / "w.sock", {}) as worker:
            await until(lambda: bool(listener.told))
            assert await worker.blocks() == []
            await link.close()
        return worker

    asyncio.run(talk())


def test_a_closed_link_stays_closed(tmp_path: Path) -> None:
    listener = Listener()

    async def talk() -> int:
        async with listening(tmp_path / "w.sock", {}) as worker:
            link = WorkerLink(worker.path, listener)
            await link.close()  # harmless before it is open
            link.open()
            await until(lambda: len(listener.told) == 1)
            await link.close()
            await until(lambda: len(listener.told) == 2)
            await asyncio.sleep(0.15)
            return worker.connections

    assert asyncio.run(talk()) == 1
