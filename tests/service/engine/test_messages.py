"""The messages between an HTTP process and a worker survive the trip, however the bytes are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.variants import Form
from service.engine import messages
from service.engine.absent import Absent
from service.engine.messages import Kind, Message, MessageReader
from service.engine.served_models import ServedModel
from tests.registries import publish

some_messages = st.lists(
    st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=8
)


@given(sent=some_messages, cuts=st.lists(st.integers(1, 40), min_size=1))
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[tuple[Kind, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(messages.pack(*message) for message in sent)
    reader = MessageReader()
    received: list[Message] = []
    start = 0
    turn = 0

    while start < len(stream):
        size = cuts[turn % len(cuts)]
        received += reader.feed(stream[start : start + size])
        start += size
        turn += 1

    assert received == sent


def test_a_message_is_given_with_its_last_byte_and_not_before() -> None:
    stream = messages.pack(Kind.REFUSAL, 7, b"reason")
    reader = MessageReader()

    assert list(reader.feed(stream[:-1])) == []
    assert list(reader.feed(stream[-1:])) == [Message(Kind.REFUSAL, 7, b"reason")]


def test_what_is_left_after_a_message_waits_for_its_rest() -> None:
    first, second = messages.pack(Kind.BLOCK, 1, b"a"), messages.pack(Kind.BLOCK, 2, b"b" * 100)
    reader = MessageReader()

    assert [message.block_id for message in reader.feed(first + second[:30])] == [1]
    assert [message.block_id for message in reader.feed(second[30:] + first)] == [2, 1]


def test_an_empty_payload_is_a_message() -> None:
    assert list(MessageReader().feed(messages.pack(Kind.REFUSAL, 3, b""))) == [Message(Kind.REFUSAL, 3, b"")]


def test_a_block_arrives_with_its_inputs_back_to_back() -> None:
    packed = messages.pack_block(9, 4, 3, 12.5, [b"ab", b"cd", b"ef"])

    (message,) = MessageReader().feed(packed)
    block = messages.unpack_block(message.payload)

    assert (message.kind, message.block_id) == (Kind.BLOCK, 9)
    assert (block.handle, block.size, block.deadline, bytes(block.data)) == (4, 3, 12.5, b"abcdef")


@pytest.mark.parametrize("scores", [b"", np.array([0.5, 1.5, -2], np.float32).tobytes()], ids=["unscored", "scored"])
@pytest.mark.parametrize("classes", [2, 5])
def test_an_answer_arrives_with_a_row_for_each_image(classes: int, scores: bytes) -> None:
    class_ids = np.array([1, -1, 0], np.int32)
    confidences = np.array([0.75, np.nan, 0.5], np.float32)
    logits = np.arange(3 * classes, dtype=np.float32).reshape(3, classes)
    columns = (class_ids.tobytes(), confidences.tobytes(), logits.tobytes(), scores)

    packed = messages.pack_answer(5, columns, classes=classes, batch_size=64, queue_seconds=0.25, compute_seconds=0.125)
    (message,) = MessageReader().feed(packed)
    answer = messages.unpack_answer(message.payload)

    assert (message.kind, message.block_id) == (Kind.ANSWER, 5)
    assert answer.class_ids == [1, -1, 0]
    assert answer.confidences == pytest.approx([0.75, float("nan"), 0.5], nan_ok=True)
    assert list(answer.logits) == list(range(3 * classes))
    assert answer.scores == ([0.5, 1.5, -2] if scores else [])
    assert (answer.classes, answer.batch_size) == (classes, 64)
    assert (answer.queue_seconds, answer.compute_seconds) == (0.25, 0.125)


def test_an_announcement_arrives_with_the_whole_manifest(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    models = {3: ServedModel(manifest, default=True, aliases=("production",))}
    absent = (Absent(name="rows", version=2, state="refused", reason="it is bad"),)

    (message,) = MessageReader().feed(messages.pack_models(models, absent))
    unpacked, still_absent = messages.unpack_models(message.payload)

    assert message.kind == Kind.MODELS
    assert [(handle, m.manifest, m.default, m.aliases, m.form) for handle, m in unpacked.items()] == [
        (3, manifest, True, ("production",), Form())
    ]
    assert still_absent == absent
