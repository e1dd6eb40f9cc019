"""What an answer may take is estimated before anything is computed, and is never less than what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from service.api.predictions import entry_bytes, prediction_entries
from service.api.request import parse_query
from service.api.response import MAX_ANSWER_BYTES, check_answer_size
from service.engine.messages import BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import TooLarge
from tests.registries import publish

IMAGES = 20


@pytest.mark.parametrize("query", [b"", b"top_k=10", b"top_k=999&probabilities=true", b"probabilities=true"])
def test_entries_are_no_longer_than_was_estimated(query: bytes, tmp_path: Path) -> None:
    model, asked = ServedModel(publish(tmp_path), default=True), parse_query(query)
    logits = np.random.default_rng(0).normal(size=(IMAGES, 10)).astype(np.float32)
    answer = BlockAnswer(
        [9] * IMAGES, [0.123456] * IMAGES, memoryview(logits.tobytes()).cast("f"), 10, IMAGES, 0.0, 0.0
    )

    entries = prediction_entries(model, Part(answer, 0, IMAGES), asked)

    size = len(orjson.dumps(entries))
    assert size <= IMAGES * entry_bytes(model, asked) <= 4 * size


def test_an_answer_over_its_limit_is_refused() -> None:
    check_answer_size(MAX_ANSWER_BYTES)

    with pytest.raises(TooLarge, match=r"at most 67,108,864 bytes; .* Given: about 67,108,865"):
        check_answer_size(MAX_ANSWER_BYTES + 1)
