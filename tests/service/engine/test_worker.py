"""The worker as an HTTP process meets it: over a real Unix socket, with real models of two lines."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import FeatureInput, ImageInput, ModelManifest
from service.contract.registry import Registry
from service.contract.variants import Form
from service.engine import messages
from service.engine.absent import Absent
from service.engine.line_up import Entry, LineUp
from service.engine.messages import BlockAnswer, Kind, Message
from service.engine.served_models import ServedModel
from service.engine.worker import MemoryLimit, OversizedWorkerError, Timing, Worker
from service.model.model import DeviceFailedError, Model
from service.model.outputs import Outputs, Pending
from service.model.selftest import SelfTests, UnsoundWorkerError
from tests.registries import FirstFeature, publish
from tests.waiting import wait_until

SMALL = ImageInput(shape=(1, 10, 1), colour="grey")
POISON, SPOILT, STICKY, CORRUPTING = (
    255,
    254,
    253,
    252,
)  # what a test of its own sends, and neither warm-up nor golden sample has


class Touchy(nn.Module):
    """The brightest row; it raises on the value POISON and gives NaN for an image with the value SPOILT."""

    def forward(self, images: Tensor) -> Tensor:
        if bool((images == 255).any()):
            raise ValueError("poison")
        logits = images[:, 0, :10].float().sum(dim=2)
        spoilt = (images == 254).flatten(1).any(dim=1, keepdim=True)
        return torch.where(spoilt, torch.full_like(logits, float("nan")), logits)


class Fragile(nn.Module):
    """The brightest row, until an image with the value CORRUPTING sets its weight to zero; STICKY harms the device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        if bool((images == 253).any()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if bool((images == 252).any()):
            self.weight.zero_()
        return images[:, 0, :10].float().sum(dim=2) * self.weight


class Held:
    """A batch that is computed when the test says so, as a GPU would on its own."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self.go = threading.Event()
        self.is_waited_for = threading.Event()
        self.error: Exception | None = None

    def ready(self) -> bool:
        return self.go.is_set()

    def outputs(self) -> Outputs:
        self.is_waited_for.set()
        assert self.go.wait(30)
        if self.error:
            raise self.error
        return self._pending.outputs()


class WatchedModel(Model):
    """A model that remembers how many inputs it was given at a time, and holds as many batches as it is told."""

    sizes: tuple[int, ...] = ()
    to_hold = 0

    def start(self, inputs: Tensor) -> Pending:
        self.sizes += (len(inputs),)
        pending = super().start(inputs)
        if self.to_hold == 0:
            return pending
        self.to_hold -= 1
        self.held.append(Held(pending))
        return self.held[-1]

    def hold(self, batches: int) -> None:
        """Compute the next batches only when they are told to go."""
        self.to_hold = batches
        self.held: list[Held] = []

    def batch_underway(self, number: int) -> Held:
        """Return the `number`th batch that is held, once the worker has started it."""
        wait_until(lambda: len(self.held) > number, interval=0.001, otherwise=f"batch {number}")
        return self.held[number]


Announced = tuple[tuple[int, ModelManifest, bool, tuple[str, ...]], ...]
"""Handle, manifest, whether it is the default, and aliases of each model."""


def announced(models: dict[int, ServedModel]) -> Announced:
    return tuple((handle, m.manifest, m.default, m.aliases) for handle, m in models.items())


class Client:
    """What an HTTP process is to the worker."""

    announced: Announced = ()
    forms: tuple[Form, ...] = ()
    absent: tuple[Absent, ...] = ()

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self._reader = messages.MessageReader()
        self._messages: list[Message] = []

    def send(self, block_id: int, images: bytes, *, handle: int = 0, size: int = 0, seconds: float = 60) -> None:
        self.socket.sendall(block(block_id, images, handle=handle, size=size, seconds=seconds))

    def receive(self) -> Message:
        while not self._messages:
            data = self.socket.recv(1 << 16)
            assert data, "the worker closed the connection"
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    def answer(self, block_id: int) -> BlockAnswer:
        """The next message, which is to be the answer to `block_id`."""
        message = self.receive()
        assert (message.kind, message.block_id) == (Kind.ANSWER, block_id), message
        return messages.unpack_answer(message.payload)

    def refusal(self, block_id: int) -> str:
        message = self.receive()
        assert (message.kind, message.block_id) == (Kind.REFUSAL, block_id), message
        return message.payload.decode()


class Running:
    """A worker in a thread, which `hold` stops between two turns of its loop."""

    def __init__(
        self,
        models: list[WatchedModel],
        path: str,
        max_batch_size: int,
        selftest_seconds: float,
        timing: Timing,
        **options: Any,
    ) -> None:
        self.models = models
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._stop, self._stopper = os.pipe()
        self._go = threading.Event()
        self._go.set()
        self._held = threading.Event()
        self.beats: list[float] = []
        self._clients: list[Client] = []
        line_up = LineUp(tuple(Entry(model, default=True, aliases=("best",)) for model in models))
        self.ended: Exception | None = None
        worker = self._worker = Worker(
            line_up,
            self._listener,
            max_batch_size=max_batch_size,
            beat=self._beat,
            self_tests=SelfTests(selftest_seconds),
            timing=timing,
            **options,
        )
        self.offer = worker.offer
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._worker.run(self._stop)
        except (DeviceFailedError, OversizedWorkerError, UnsoundWorkerError) as error:
            self.ended = error

    def _beat(self, now: float, batches: int) -> None:
        self.beats.append(now)
        self.batches = batches
        if not self._go.is_set():
            self._held.set()
            self._go.wait()

    def wait_for_a_turn(self) -> None:
        """Wait until the loop has gone round."""
        turns = len(self.beats)
        wait_until(lambda: len(self.beats) >= turns + 2)

    def connect(self) -> Client:
        client = Client(self._path)
        self._clients.append(client)
        models, client.absent = messages.unpack_models(client.receive().payload)
        client.announced = announced(models)
        client.forms = tuple(model.form for model in models.values())
        return client

    def hold(self) -> None:
        """Stop the worker before it looks for what has arrived: what is sent from now on arrives at once."""
        self._held.clear()
        self._go.clear()
        assert self._held.wait(30)

    def go_on(self) -> None:
        self._go.set()

    def close(self) -> None:
        self._go.set()
        os.write(self._stopper, b"x")
        self.thread.join(30)
        assert not self.thread.is_alive()
        for client in self._clients:
            client.socket.close()
        self._listener.close()
        os.close(self._stop)
        os.close(self._stopper)


def images(*rows: int, value: int = 200) -> bytes:
    """An image of shape SMALL for each of `rows`, in which that row is the bright one."""
    pixels = np.zeros((len(rows), 10), np.uint8)
    pixels[np.arange(len(rows)), rows] = value
    return pixels.tobytes()


def block(block_id: int, data: bytes, *, handle: int = 0, size: int = 0, seconds: float = 60) -> bytes:
    return messages.pack_block(block_id, handle, size or len(data) // 10, time.monotonic() + seconds, [data])


@pytest.fixture
def models(tmp_path: Path) -> list[WatchedModel]:
    """`touchy`, `sign` and `fragile`; their handles are 0, 1 and 2."""
    registry = Registry(tmp_path)
    manifests = [
        publish(tmp_path, "touchy", Touchy(), spec=SMALL),
        publish(tmp_path, "sign", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive")),
        publish(tmp_path, "fragile", Fragile(), spec=SMALL),
    ]
    return [WatchedModel(manifest, registry.artifact(manifest)) for manifest in manifests]


@pytest.fixture
def start(models: list[WatchedModel], tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(max_batch_size: int, *, selftest_seconds: float = 3600, **options: Any) -> Running:
        for model in models:
            model.sizes = ()
        path = str(tmp_path / f"{len(running)}.sock")
        timing = {name: options.pop(name) for name in Timing._fields if name in options}
        chosen = Timing(**{"idle_seconds": 0.02, **timing})  # how soon an idle worker can be held
        running.append(Running(models, path, max_batch_size, selftest_seconds, chosen, **options))
        return running[-1]

    yield start
    for worker in running:
        worker.close()


@pytest.fixture
def worker(start: Callable[..., Running]) -> Running:
    return start(8)


@pytest.fixture
def watching(start: Callable[..., Running]) -> Running:
    """A worker that looks for another batch for as long as a test lasts."""
    return start(8, watch_seconds=60.0)


def test_who_connects_is_told_what_is_served(worker: Running, models: list[WatchedModel]) -> None:
    client = worker.connect()

    assert client.announced == (
        (0, models[0].manifest, True, ("best",)),
        (1, models[1].manifest, True, ("best",)),
        (2, models[2].manifest, True, ("best",)),
    )


def test_a_block_is_answered_image_by_image_in_its_order(worker: Running) -> None:
    client = worker.connect()

    client.send(7, images(3, 1, 4, 1, 5))
    answer = client.answer(7)

    assert answer.class_ids == [3, 1, 4, 1, 5]
    assert answer.confidences == pytest.approx([1.0] * 5)
    assert list(answer.logits[10:20]) == [0, 200, 0, 0, 0, 0, 0, 0, 0, 0]
    assert (answer.classes, answer.batch_size) == (10, 5)
    assert answer.queue_seconds >= 0
    assert answer.compute_seconds > 0


def test_features_are_answered_too(worker: Running) -> None:
    client = worker.connect()

    client.send(1, np.array([[2, 0], [-2, 9]], "<f4").tobytes(), handle=1, size=2)

    assert client.answer(1).class_ids == [1, 0]


def test_blocks_of_two_connections_are_computed_together(worker: Running) -> None:
    first, second = worker.connect(), worker.connect()
    worker.hold()

    first.send(1, images(1, 2))
    second.send(1, images(3, 4, 5))
    worker.go_on()
    answers = first.answer(1), second.answer(1)

    assert [answer.class_ids for answer in answers] == [[1, 2], [3, 4, 5]]
    assert [answer.batch_size for answer in answers] == [5, 5]
    assert worker.models[0].sizes == (5,)


def test_a_batch_is_no_larger_than_the_limit_and_is_filled_by_what_fits(start: Callable[..., Running]) -> None:
    worker = start(4)
    client = worker.connect()
    worker.hold()

    for block_id, rows in enumerate([(1, 2), (3, 4, 5), (6, 7), (8,)], 1):
        client.send(block_id, images(*rows))
    worker.go_on()
    together = [client.answer(block_id).class_ids for block_id in (1, 3, 2, 4)]

    assert together == [[1, 2], [6, 7], [3, 4, 5], [8]]
    assert worker.models[0].sizes == (4, 4)


def test_blocks_of_two_models_are_not_mixed(worker: Running) -> None:
    client = worker.connect()
    worker.hold()

    client.send(1, images(1))
    client.send(2, np.array([[1, 0]], "<f4").tobytes(), handle=1, size=1)
    client.send(3, images(3))
    worker.go_on()

    assert [client.answer(block_id).class_ids for block_id in (1, 3, 2)] == [[1], [3], [1]]
    assert [model.sizes for model in worker.models] == [(2,), (1,), ()]


def test_an_image_that_makes_the_model_raise_fails_alone(worker: Running) -> None:
    first, second = worker.connect(), worker.connect()
    worker.hold()

    first.send(1, images(1, 2) + images(3, value=POISON) + images(4))
    second.send(2, images(5))
    worker.go_on()
    with_poison, neighbour = first.answer(1), second.answer(2)

    assert with_poison.class_ids == [1, 2, -1, 4]
    assert np.isnan(with_poison.confidences[2])
    assert len(with_poison.logits) == 4 * 10
    assert neighbour.class_ids == [5]


def test_when_every_image_is_poison_every_one_fails_and_the_next_block_does_not(worker: Running) -> None:
    client = worker.connect()

    client.send(1, images(0, 1, 2, value=POISON))
    client.send(2, images(3))

    assert client.answer(1).class_ids == [-1, -1, -1]
    assert client.answer(2).class_ids == [3]


def test_logits_that_are_no_numbers_are_no_class(worker: Running) -> None:
    client = worker.connect()

    client.send(1, images(1) + images(2, value=SPOILT) + images(3))

    assert client.answer(1).class_ids == [1, -1, 3]


def test_an_expired_block_is_refused_and_its_neighbours_are_computed_without_it(worker: Running) -> None:
    client = worker.connect()
    worker.hold()

    client.send(1, images(1))
    client.send(2, images(2), seconds=-0.001)
    client.send(3, images(3))
    worker.go_on()

    assert "deadline" in client.refusal(2)
    assert [client.answer(block_id).class_ids for block_id in (1, 3)] == [[1], [3]]
    assert worker.models[0].sizes == (2,)


def test_a_block_of_a_model_that_is_not_served_is_refused(worker: Running) -> None:
    client = worker.connect()

    client.send(1, images(1), handle=9)
    client.send(2, images(2))

    assert "does not serve this version" in client.refusal(1)
    assert client.answer(2).class_ids == [2]


def test_what_a_peer_left_behind_is_not_computed(start: Callable[..., Running]) -> None:
    worker = start(2)
    leaving, staying = worker.connect(), worker.connect()
    worker.hold()

    for block_id in range(1, 6):
        leaving.send(block_id, images(1, 1))
    leaving.socket.close()
    staying.send(1, images(2, 2))
    worker.go_on()

    assert staying.answer(1).class_ids == [2, 2]
    assert worker.models[0].sizes == (2, 2)  # the first of five was taken before its peer was known to be gone


def test_a_peer_that_leaves_before_its_answer_harms_nobody(worker: Running) -> None:
    staying = worker.connect()

    for _ in range(20):
        leaving = worker.connect()
        leaving.send(1, images(*range(8)))
        leaving.send(2, images(*range(8)))
        leaving.socket.close()
    staying.send(1, images(6))

    assert staying.answer(1).class_ids == [6]


def test_a_block_that_arrives_in_pieces_is_one_block(worker: Running) -> None:
    client, other = worker.connect(), worker.connect()
    whole = block(1, images(1, 2, 3)) + block(2, images(4))

    for i in range(0, len(whole), 5):
        client.socket.sendall(whole[i : i + 5])
        if i % 25 == 0:  # an answer in between shows that the worker has read so far and waits for the rest
            other.send(i, images(9))
            assert other.answer(i).class_ids == [9]

    assert [client.answer(1).class_ids, client.answer(2).class_ids] == [[1, 2, 3], [4]]


def test_a_block_larger_than_what_is_read_at_once_is_whole(start: Callable[..., Running]) -> None:
    client = start(8).connect()
    rows = np.arange(300_000) % 10  # 3 MB: three reads

    client.send(1, images(*rows))

    assert client.answer(1).class_ids == rows.tolist()


def test_a_slow_reader_gets_its_large_answer_and_holds_up_nobody(start: Callable[..., Running]) -> None:
    worker = start(50_000)
    slow, quick = worker.connect(), worker.connect()
    rows = np.arange(50_000) % 10  # an answer of 2.4 MB, where a socket holds a tenth of it

    slow.send(1, images(*rows))
    slow.send(2, images(*rows[:100]))
    for block_id in range(5):
        quick.send(block_id, images(7))
        assert quick.answer(block_id).class_ids == [7]

    assert slow.answer(1).class_ids == rows.tolist()
    assert slow.answer(2).class_ids == rows[:100].tolist()


def test_the_heart_beats_when_nothing_is_asked(worker: Running) -> None:
    before = len(worker.beats)

    wait_until(lambda: len(worker.beats) >= before + 2)

    assert worker.beats == sorted(worker.beats)


def test_while_single_inputs_follow_each_other_the_worker_looks_for_the_next_without_resting(
    start: Callable[..., Running],
) -> None:
    worker = start(8, linger_seconds=60.0, idle_seconds=60.0)  # it rests for as long as nothing arrives
    client = worker.connect()

    for number in range(5):
        client.send(number, images(1))
        assert client.answer(number).class_ids == [1]

    worker.wait_for_a_turn()


@pytest.mark.parametrize(
    ("linger_seconds", "last"),
    [(60.0, images(1, 2)), (0.02, images(1))],
    ids=["after a larger batch", "once it is late"],
)
def test_it_rests_again(start: Callable[..., Running], linger_seconds: float, last: bytes) -> None:
    worker = start(8, linger_seconds=linger_seconds, idle_seconds=60.0)
    client = worker.connect()

    for number, data in enumerate([*[images(1)] * 5, last]):
        client.send(number, data)
        assert client.answer(number).class_ids[0] == 1
    time.sleep(0.05)  # for the turn that follows an answer
    beats = len(worker.beats)
    time.sleep(0.1)

    assert len(worker.beats) == beats


@pytest.mark.parametrize("handle", [0, 2], ids=["another model", "the same"])
def test_an_error_of_the_device_ends_the_worker_and_its_blocks_are_left_to_another(
    start: Callable[..., Running], handle: int
) -> None:
    worker = start(8)
    client, other = worker.connect(), worker.connect()
    worker.hold()

    client.send(1, images(1) + images(2, value=STICKY), handle=2)
    other.send(1, images(3), handle=handle)
    worker.go_on()
    worker.thread.join(30)

    assert isinstance(worker.ended, DeviceFailedError)
    assert client.socket.recv(1) == b""
    assert other.socket.recv(1) == b""


def test_a_worker_whose_weights_have_changed_finds_it_out_by_itself_and_ends(start: Callable[..., Running]) -> None:
    worker = start(8, selftest_seconds=0.1)
    client = worker.connect()
    client.send(1, images(3), handle=2)
    right = client.answer(1)

    client.send(2, images(3) + images(1, value=CORRUPTING), handle=2)
    wrong = client.answer(2)
    worker.thread.join(30)

    assert (right.class_ids, list(wrong.logits)) == ([3], [0.0] * 20)
    assert "fragile@1 has passed before and must pass again" in str(worker.ended)
    assert client.receive().kind == Kind.GOODBYE, "so that nobody suspects the images that it held"
    assert client.socket.recv(1) == b""


def test_a_worker_that_holds_too_much_memory_says_goodbye_and_ends(start: Callable[..., Running]) -> None:
    held = [50]
    worker = start(8, memory=MemoryLimit(100, lambda: held[0]), memory_seconds=0.0)
    client = worker.connect()
    client.send(1, images(3))
    before = client.answer(1)

    held[0] = 101
    worker.thread.join(30)

    assert before.class_ids == [3]
    assert str(worker.ended) == "a worker must hold at most 100 bytes. Given: 101"
    assert client.receive().kind == Kind.GOODBYE
    assert client.socket.recv(1) == b""


def test_others_go_before_the_model_that_the_last_worker_died_of(
    start: Callable[..., Running], models: list[WatchedModel]
) -> None:
    worker = start(8, suspect=models[0].identity, suspicion_seconds=1.0)
    client = worker.connect()

    client.send(1, images(1))
    worker.wait_for_a_turn()
    client.send(2, images(2), handle=2)

    assert client.answer(2).class_ids == [2]
    assert client.answer(1).class_ids == [1]


def test_what_a_worker_computes_is_told_before_and_after(start: Callable[..., Running]) -> None:
    told: list[str] = []
    worker = start(8, on_compute=lambda model: told.append(str(model)))
    client = worker.connect()

    client.send(1, images(1))
    client.answer(1)
    worker.wait_for_a_turn()

    assert told == ["touchy@1", "None"]


def test_the_batches_that_were_answered_are_counted(worker: Running) -> None:
    client = worker.connect()

    for block_id in range(3):
        client.send(block_id, images(1))
        client.answer(block_id)
    worker.wait_for_a_turn()

    assert worker.batches == 3


def test_the_worker_ends_when_its_stop_becomes_readable_and_not_before(start: Callable[..., Running]) -> None:
    worker = start(8)
    worker.connect()
    was_alive = worker.thread.is_alive()

    os.write(worker._stopper, b"x")
    worker.thread.join(30)

    assert was_alive
    assert not worker.thread.is_alive()


def test_an_offered_line_up_takes_over_and_everybody_is_told(worker: Running, models: list[WatchedModel]) -> None:
    clients = [worker.connect(), worker.connect()]

    worker.offer(LineUp((Entry(models[1], default=True, aliases=("next",)),)))

    for client in clients:
        served, _ = messages.unpack_models(client.receive().payload)
        assert announced(served) == ((1, models[1].manifest, True, ("next",)),)


def test_everybody_is_told_what_is_loading_or_refused(worker: Running, models: list[WatchedModel]) -> None:
    client = worker.connect()
    before = client.announced
    absent = (Absent(name="sign", version=2, state="refused", reason="it is bad"),)

    worker.offer(LineUp(tuple(Entry(model, default=True, aliases=("best",)) for model in models), absent))

    served, told = messages.unpack_models(client.receive().payload)
    assert (announced(served), told) == (before, absent)
    assert worker.connect().absent == absent


def test_blocks_for_a_version_that_was_just_retired_are_still_answered(
    worker: Running, models: list[WatchedModel]
) -> None:
    client = worker.connect()
    worker.offer(LineUp((Entry(models[1], default=True, aliases=()),)))
    client.receive()

    client.send(1, images(3), handle=0)

    assert client.answer(1).class_ids == [3]


def test_a_retired_version_is_let_go_in_the_end(start: Callable[..., Running], models: list[WatchedModel]) -> None:
    worker = start(8, retirement_seconds=0.0)
    client = worker.connect()
    worker.offer(LineUp((Entry(models[1], default=True, aliases=()),)))
    client.receive()
    worker.wait_for_a_turn()

    client.send(1, images(3), handle=0)

    assert client.refusal(1) == "the worker does not serve this version"


@pytest.fixture
def touchy(models: list[WatchedModel]) -> Iterator[WatchedModel]:
    """The first of `models`, whose batches can be held while the worker looks for another."""
    touchy = models[0]
    assert isinstance(touchy, WatchedModel)
    yield touchy
    for held in touchy.held:
        held.go.set()


def with_two_batches_underway(touchy: WatchedModel, worker: Running) -> Client:
    """A client whose blocks 0 and 1 are held in a batch each."""
    client = worker.connect()
    touchy.hold(2)
    for block_id in range(2):
        client.send(block_id, images(block_id))
        touchy.batch_underway(block_id)
    return client


def test_the_next_batch_is_started_while_one_is_computed_and_a_third_is_not(
    touchy: WatchedModel, watching: Running
) -> None:
    client = watching.connect()
    touchy.hold(3)

    for block_id in range(3):
        client.send(block_id, images(block_id))
        if block_id < 2:
            touchy.batch_underway(block_id)
    first, second = touchy.held
    assert first.is_waited_for.wait(30)
    underway = len(touchy.held)
    second.go.set()
    first.go.set()
    answers = [client.answer(block_id).class_ids for block_id in range(2)]
    touchy.batch_underway(2).go.set()

    assert underway == 2
    assert [*answers, client.answer(2).class_ids] == [[0], [1], [2]]


def test_sockets_are_read_and_the_heart_beats_while_one_batch_is_computed(
    touchy: WatchedModel, start: Callable[..., Running]
) -> None:
    worker = start(8, watch_seconds=60.0, idle_seconds=60.0)  # nothing that it does may wait for a socket
    client = worker.connect()
    touchy.hold(1)
    client.send(1, images(1))
    held = touchy.batch_underway(0)

    worker.wait_for_a_turn()
    late = worker.connect()
    was_waited_for = held.is_waited_for.is_set()
    held.go.set()

    assert late.announced == client.announced
    assert not was_waited_for
    assert client.answer(1).class_ids == [1]


def test_a_batch_that_has_no_end_stops_the_heart(touchy: WatchedModel, start: Callable[..., Running]) -> None:
    worker = start(8, watch_seconds=0.0)
    client = worker.connect()
    touchy.hold(1)

    client.send(1, images(1))
    held = touchy.batch_underway(0)
    assert held.is_waited_for.wait(30)
    beats = len(worker.beats)
    time.sleep(0.1)  # an idle worker's heart beats five times in it

    assert len(worker.beats) == beats
    held.go.set()
    assert client.answer(1).class_ids == [1]


def test_the_time_behind_another_batch_counts_as_waiting(touchy: WatchedModel, watching: Running) -> None:
    client = watching.connect()
    touchy.hold(2)
    client.send(1, images(1))
    touchy.batch_underway(0)
    client.send(2, images(2))
    second = touchy.batch_underway(1)
    began = time.monotonic()

    time.sleep(0.05)
    held_seconds = time.monotonic() - began
    second.go.set()
    touchy.held[0].go.set()
    client.answer(1)
    answer = client.answer(2)

    assert answer.queue_seconds >= held_seconds
    assert answer.compute_seconds > 0


def test_a_batch_that_turns_out_to_fail_is_halved_and_the_one_behind_it_is_answered(
    touchy: WatchedModel, watching: Running
) -> None:
    client = watching.connect()
    touchy.hold(2)
    client.send(1, images(1, 2) + images(3, value=POISON) + images(4))
    touchy.batch_underway(0)
    client.send(2, images(5))
    touchy.batch_underway(1).go.set()

    touchy.held[0].go.set()

    assert client.answer(1).class_ids == [1, 2, -1, 4]
    assert client.answer(2).class_ids == [5]


def test_what_expires_behind_two_batches_is_refused(touchy: WatchedModel, watching: Running) -> None:
    client = with_two_batches_underway(touchy, watching)

    client.send(2, images(2), seconds=0.01)
    time.sleep(0.02)
    for held in touchy.held:
        held.go.set()

    assert client.answer(0).class_ids == [0]
    assert "deadline" in client.refusal(2)
    assert client.answer(1).class_ids == [1]


def test_a_device_that_fails_with_two_batches_underway_ends_the_worker(touchy: WatchedModel, watching: Running) -> None:
    client = with_two_batches_underway(touchy, watching)

    touchy.held[0].error = DeviceFailedError("CUDA error: an illegal memory access was encountered")
    touchy.held[0].go.set()
    watching.thread.join(30)

    assert isinstance(watching.ended, DeviceFailedError)
    assert client.socket.recv(1) == b""


def test_a_version_that_is_let_go_answers_what_is_underway(
    touchy: WatchedModel, start: Callable[..., Running], models: list[WatchedModel]
) -> None:
    worker = start(8, watch_seconds=60.0, retirement_seconds=0.0)
    client = worker.connect()
    touchy.hold(1)
    client.send(1, images(3))
    held = touchy.batch_underway(0)

    worker.offer(LineUp((Entry(models[1], default=True, aliases=()),)))
    client.receive()
    worker.wait_for_a_turn()
    held.go.set()

    assert client.answer(1).class_ids == [3]


def test_who_leaves_while_its_batch_is_computed_harms_nobody(touchy: WatchedModel, watching: Running) -> None:
    leaving, staying = watching.connect(), watching.connect()
    touchy.hold(1)
    leaving.send(1, images(1))
    held = touchy.batch_underway(0)

    leaving.socket.close()
    watching.wait_for_a_turn()
    held.go.set()
    staying.send(1, images(6))

    assert staying.answer(1).class_ids == [6]


def test_the_worker_ends_when_it_should_though_a_batch_is_underway(touchy: WatchedModel, watching: Running) -> None:
    client = watching.connect()
    touchy.hold(1)
    client.send(1, images(1))
    touchy.batch_underway(0)

    os.write(watching._stopper, b"x")
    watching.thread.join(30)

    assert not watching.thread.is_alive()
    assert client.socket.recv(1) == b""
