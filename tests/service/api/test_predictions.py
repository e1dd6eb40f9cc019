"""What an answer may take is estimated before anything is computed, and is never less than what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from service.api.predictions import check_query, entry_bytes, prediction_entries
from service.api.request import parse_query
from service.api.response import MAX_ANSWER_BYTES, check_answer_size
from service.engine.messages import BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import TooLarge, Unprocessable
from tests.registries import SCORED, ScoredRows, publish

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


def test_probabilities_have_six_decimals_as_python_rounds_them(tmp_path: Path) -> None:
    model = ServedModel(publish(tmp_path), default=True)
    given = [0.0, 1.0, 1e-9, *np.random.default_rng(0).random(1000, np.float32).tolist()]
    logits = memoryview(bytes(40 * len(given))).cast("f")

    entries = prediction_entries(
        model, Part(BlockAnswer([9] * len(given), given, logits, 10, 1, 0.0, 0.0), 0, len(given)), parse_query(b"")
    )

    assert [entry["probability"] for entry in entries] == [round(probability, 6) for probability in given]


def test_an_answer_over_its_limit_is_refused() -> None:
    check_answer_size(MAX_ANSWER_BYTES)

    with pytest.raises(TooLarge, match=r"at most 67,108,864 bytes; .* Given: about 67,108,865"):
        check_answer_size(MAX_ANSWER_BYTES + 1)


def scored(tmp_path: Path) -> ServedModel:
    return ServedModel(publish(tmp_path, module=ScoredRows(), **SCORED), default=True)


def part(scores: list[float]) -> Part:
    """The answer to as many images, each of class 3."""
    logits = np.tile(np.eye(10, dtype=np.float32)[3] * 4, (len(scores), 1))
    columns = memoryview(logits.tobytes()).cast("f")
    return Part(BlockAnswer([3] * len(scores), [0.86] * len(scores), columns, 10, 1, 0.0, 0.0, scores), 0, len(scores))


def test_every_prediction_says_whether_its_input_resembles_the_training_data(tmp_path: Path) -> None:
    own, foreign, broken = prediction_entries(scored(tmp_path), part([0.5, 0.99, float("nan")]), parse_query(b""))

    assert (own["outlier"], own["outlier_percentile"]) == (False, 49.5)
    assert (foreign["outlier"], foreign["outlier_percentile"]) == (True, 98.5)
    assert (broken["outlier"], broken["outlier_percentile"]) == (True, 100)
    assert [entry["label"] for entry in (own, foreign, broken)] == ["3"] * 3


def test_an_outlier_gets_no_label_where_the_request_wishes_it_so(tmp_path: Path) -> None:
    own, foreign = prediction_entries(scored(tmp_path), part([0.5, 0.99]), parse_query(b"abstain=true"))

    assert (own["class_id"], own["label"]) == (3, "3")
    assert (foreign["class_id"], foreign["label"], foreign["probability"]) == (None, None, 0.86)


def test_a_prediction_set_holds_the_classes_that_are_probable_enough(tmp_path: Path) -> None:
    model = scored(tmp_path)
    logits = np.log(np.array([[0.3, 0.6, *[0.1 / 8] * 8]], np.float32))
    answer = BlockAnswer([1], [0.6], memoryview(logits.tobytes()).cast("f"), 10, 1, 0.0, 0.0, [0.5])

    (few,), (more,) = (
        prediction_entries(model, Part(answer, 0, 1), parse_query(query))
        for query in (b"coverage=0.9", b"coverage=.951")
    )

    assert [one["label"] for one in few["prediction_set"]] == ["1"]
    assert [(one["label"], one["probability"]) for one in more["prediction_set"]] == [("1", 0.6), ("0", 0.3)]


def test_a_version_without_scores_answers_as_it_always_did(tmp_path: Path) -> None:
    model = ServedModel(publish(tmp_path), default=True)

    (entry,) = prediction_entries(model, part([0.5]), parse_query(b""))

    assert set(entry) == {"class_id", "label", "probability"}


@pytest.mark.parametrize("query", [b"abstain=true", b"coverage=0.9"])
def test_a_version_that_cannot_tell_is_not_asked_to(query: bytes, tmp_path: Path) -> None:
    check_query(scored(tmp_path / "scored"), parse_query(query))

    with pytest.raises(Unprocessable, match="needs a version that was published with held-out data"):
        check_query(ServedModel(publish(tmp_path), default=True), parse_query(query))
