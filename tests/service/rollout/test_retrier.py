"""The retrier computes images one by one, each in a process that may die of it, and says which did."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import ImageInput, ModelManifest, identity
from service.engine import messages
from service.engine.messages import CRASHED, FAILED, BlockAnswer, Kind, Message
from service.rollout.retrier import Limits
from tests.preloaded import FORKS
from tests.processes import still_running
from tests.registries import SCORED, publish
from tests.service.rollout import retrying
from tests.waiting import wait_until

SMALL = ImageInput(shape=(1, 10, 1), colour="grey")
CRASH, HANG, RAISE, EAT = 255, 254, 253, 252


class Touchy(nn.Module):
    """The brightest row; it crashes, hangs, raises, or eats memory on an image with one of four values."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images[:, 0, :10].float().sum(dim=2)
        if bool((images == 255).any()):
            zero = images.flatten()[:1].long() * 0  # not a constant, which would be computed when the module is loaded
            least = zero - 9223372036854775807 - 1
            logits = logits + torch.div(least, zero - 1, rounding_mode="trunc")  # SIGFPE
        total = torch.zeros([1])
        while bool((images == 254).any()) and bool(total < 1):
            total = total * 0
        if bool((images == 253).any()):
            raise ValueError("no")
        eaten = [logits]
        while bool((images == 252).any()):
            eaten.append(torch.ones([1 << 20]))
        return eaten[0] + total


class Scored(nn.Module):
    """The brightest row, and the brightness of the last one as its score; it crashes as `Touchy` does."""

    def __init__(self) -> None:
        super().__init__()
        self.touchy = Touchy()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.touchy(images), images[:, 0, 9, 0].float() / 255


class Running:
    """A retrier in a process of its own, and a connection to it."""

    def __init__(self, folder: Path, manifest: ModelManifest) -> None:
        self.manifest = manifest
        self.registry = folder / "registry"
        self.connection, theirs = FORKS.Pipe()
        path = str(folder / "retrier.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            limits = Limits(seconds=1, memory_bytes=300 * 2**20)
            arguments = (theirs, listener, str(folder / "registry"), limits)
            self.process = FORKS.Process(target=retrying.main, args=arguments)
            self.process.start()
        theirs.close()
        self.pid: int = self.connection.recv()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self._reader = messages.MessageReader()
        self._messages: list[Message] = []
        assert self.receive().kind == Kind.MODELS

    def receive(self) -> Message:
        while not self._messages:
            data = self.socket.recv(1 << 16)
            assert data, "the retrier closed the connection"
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    def send(
        self, *images: bytes, manifest: ModelManifest | None = None, seconds: float = 60, block_id: int = 7
    ) -> None:
        described = (manifest or self.manifest).model_dump_json().encode()
        deadline = time.monotonic() + seconds
        self.socket.sendall(messages.pack_retry(7, described, len(images), deadline, list(images)))

    def answer(self) -> BlockAnswer:
        message = self.receive()
        assert (message.kind, message.block_id) == (Kind.ANSWER, 7), message
        return messages.unpack_answer(message.payload)

    def crashes(self) -> list[str]:
        """What was said of processes that ended."""
        said = []
        while self.connection.poll(0.05):
            said.append(self.connection.recv())
        return said


def image(row: int, value: int = 200) -> bytes:
    pixels = np.zeros(10, np.uint8)
    pixels[row] = value
    return pixels.tobytes()


@pytest.fixture(scope="module")
def retrier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("retrier")
    running = Running(folder, publish(folder / "registry", "touchy", Touchy(), spec=SMALL))
    yield running
    running.socket.close()
    running.connection.close()
    running.process.join(30)


def test_images_are_answered_in_their_order(retrier: Running) -> None:
    retrier.send(image(3), image(1), image(4))
    answer = retrier.answer()

    assert answer.class_ids == [3, 1, 4]
    assert answer.confidences == pytest.approx([1.0] * 3)
    assert list(answer.logits[10:20]) == [0, 200, 0, 0, 0, 0, 0, 0, 0, 0]
    assert (answer.classes, answer.batch_size) == (10, 1)


def test_a_model_that_scores_its_inputs_scores_them_here_too(retrier: Running) -> None:
    manifest = publish(retrier.registry, "scored", Scored(), spec=SMALL, **SCORED)

    retrier.send(image(3), image(1, CRASH), image(9, 51), manifest=manifest)
    answer = retrier.answer()

    assert answer.class_ids == [3, CRASHED, 9]
    assert list(answer.logits[20:30]) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 51]
    assert answer.scores == pytest.approx([0, float("nan"), 0.2], nan_ok=True)
    assert retrier.crashes() == [identity(manifest)]


@pytest.mark.parametrize(
    ("value", "fault", "deaths"), [(CRASH, CRASHED, 1), (HANG, CRASHED, 1), (EAT, CRASHED, 1), (RAISE, FAILED, 0)]
)
def test_what_an_image_does_to_its_process_is_its_own_fault_alone(
    retrier: Running, value: int, fault: int, deaths: int
) -> None:
    retrier.send(image(1), image(2, value), image(3))
    answer = retrier.answer()

    assert answer.class_ids == [1, fault, 3]
    assert np.isnan(answer.confidences[1])
    assert retrier.crashes() == [identity(retrier.manifest)] * deaths


def test_an_image_that_has_ended_a_process_ends_no_other(retrier: Running) -> None:
    retrier.send(image(5, CRASH))
    first = retrier.answer().class_ids, len(retrier.crashes())

    retrier.send(image(5, CRASH), image(6))
    again = retrier.answer().class_ids, len(retrier.crashes())

    assert (first, again) == (([CRASHED], 1), ([CRASHED, 6], 0))


def test_what_cannot_be_loaded_is_refused_with_the_reason(retrier: Running) -> None:
    retrier.send(image(1), manifest=retrier.manifest.model_copy(update={"version": 9}))
    message = retrier.receive()

    assert message.kind == Kind.REFUSAL
    assert "model.pt is missing" in message.payload.decode()


def test_what_is_late_is_refused_and_its_process_ended(retrier: Running) -> None:
    retrier.send(image(7, HANG), seconds=0.3)
    message = retrier.receive()

    assert (message.kind, message.payload.decode()) == (
        Kind.REFUSAL,
        "the deadline passed before the images were computed",
    )
    wait_until(lambda: psutil.Process(retrier.pid).children() == [])


def test_when_the_retrier_is_killed_the_other_side_notices_and_an_endless_image_ends(retrier: Running) -> None:
    # The last one, for the retrier is gone after it.
    retrier.send(image(8, HANG))
    children = wait_until(lambda: psutil.Process(retrier.pid).children())

    os.kill(retrier.pid, signal.SIGKILL)

    with contextlib.suppress(ConnectionResetError):
        assert retrier.socket.recv(1) == b""
    assert still_running(children, seconds=30) == []
