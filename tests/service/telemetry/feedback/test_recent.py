"""Predictions are found again by their requests' ids, whichever process made them, and the oldest are forgotten."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from service.engine.messages import FAILED, BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import NotFound, Unprocessable
from service.telemetry.feedback import recent as module
from service.telemetry.feedback.recent import NO_CLASS, Recent
from tests.registries import SCORED, ScoredRows, publish


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    manifest = publish(tmp_path_factory.mktemp("registry"), module=ScoredRows(), **SCORED)
    return ServedModel(manifest, default=True)


def made(model: ServedModel, predictions: int = 20, processes: int = 2, **more: Any) -> Recent:
    recent = Recent(predictions, processes, **more)
    recent.know([model])
    return recent


def answers(*class_ids: int, scores: tuple[float, ...] = ()) -> list[Part]:
    """Return the part of a block that comes behind other images."""
    n = len(class_ids)
    ids, scored = [9, *class_ids], [0.0, *(scores or [0.1] * n)]
    answer = BlockAnswer(ids, [0.1 * i for i in range(n + 1)], memoryview(b""), 10, n + 1, 0.0, 0.0, scored)
    return [Part(answer, 1, n)]


def pixels(model: ServedModel, *values: int) -> bytes:
    return b"".join(bytes([value]) * model.input_bytes for value in values)


def test_the_one_prediction_of_a_request_needs_no_index(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("a", model, answers(7), b"")
    recent.remember("b", model, answers(3), b"")

    found = recent.find("a")

    assert (found.position, found.model, found.class_id) == (0, model, 7)
    assert found.confidence == pytest.approx(0.1)
    assert recent.find("a", 0) == found


def test_one_of_several_is_told_by_its_place_in_the_answer(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("a", model, answers(7, 8, 9), b"", places=(0, 2, 5))

    assert [recent.find("a", place).class_id for place in (0, 2, 5)] == [7, 8, 9]
    for index in (None, 1, 6):
        with pytest.raises(Unprocessable, match=r"one of the request's predictions, 0, 2, 5\. Given: (none|1|6)"):
            recent.find("a", index)


def test_an_id_that_was_used_twice_means_the_later_request(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("same", model, answers(1, 2), b"")
    recent.remember("same", model, answers(3), b"")

    assert recent.find("same").class_id == 3


def test_the_oldest_are_forgotten_and_the_refusal_says_how_long_ids_are_remembered(model: ServedModel) -> None:
    recent = made(model, 6, 1)
    for number in range(10):
        recent.remember(f"id-{number}", model, answers(number % 10), b"")

    assert [recent.find(f"id-{number}").class_id for number in range(4, 10)] == list(range(4, 10))
    with pytest.raises(
        NotFound, match=r"one of the latest 6 predictions, at present those of the last 0 s\. Given: 'id-3'"
    ):
        recent.find("id-3")


def test_a_prediction_is_found_by_a_process_that_did_not_make_it(model: ServedModel) -> None:
    recent = made(model, keeps_inputs=True)
    data = pixels(model, 5)

    def predict() -> None:
        recent.open(1)
        recent.remember("elsewhere", model, answers(4), data)

    process = multiprocessing.get_context("fork").Process(target=predict)
    process.start()
    process.join()

    found = recent.find("elsewhere")
    assert (found.part, found.class_id, found.input) == (1, 4, data)


def test_a_process_in_the_place_of_one_that_died_goes_on_behind_its_predictions(model: ServedModel) -> None:
    recent = made(model)
    recent.open(1)
    recent.remember("before", model, answers(1), b"")
    recent.open(0)
    recent.open(1)
    recent.remember("after", model, answers(2), b"")

    assert (recent.find("before").class_id, recent.find("after").class_id) == (1, 2)


def test_an_image_that_the_model_failed_on_has_no_prediction(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("a", model, answers(7, FAILED, 8), b"")

    assert [recent.find("a", place).class_id for place in (0, 2)] == [7, 8]
    with pytest.raises(Unprocessable, match="predictions, 0, 2"):
        recent.find("a", 1)


def test_an_outlier_that_was_to_get_no_label_has_none(model: ServedModel) -> None:
    recent = made(model)
    strange = answers(7, 7, 7, scores=(0.5, 0.99, float("nan")))
    recent.remember("asked", model, strange, b"", abstains=True)
    recent.remember("not asked", model, strange, b"")

    assert [recent.find("asked", place).class_id for place in range(3)] == [7, NO_CLASS, NO_CLASS]
    assert [recent.find("not asked", place).class_id for place in range(3)] == [7, 7, 7]


def test_inputs_are_remembered_if_they_are_kept_while_there_is_room(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INPUT_BYTES", 2 * (3 * model.input_bytes + 5))  # three inputs in each of two parts
    recent = made(model, keeps_inputs=True)
    for number in range(5):
        recent.remember(f"id-{number}", model, answers(1), pixels(model, number))
    recent.remember("two", model, answers(1, 2), pixels(model, 8, 9))

    kept = [recent.find(f"id-{number}").input for number in range(5)]
    assert kept == [None] * 4 + [pixels(model, 4)]
    assert [recent.find("two", place).input for place in (0, 1)] == [pixels(model, 8), pixels(model, 9)]


def test_no_input_is_remembered_if_none_is_kept(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("a", model, answers(7), pixels(model, 1))

    assert recent.find("a").input is None


def test_an_input_larger_than_the_memory_is_not_remembered(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INPUT_BYTES", 100)
    recent = made(model, keeps_inputs=True)
    recent.remember("a", model, answers(7), pixels(model, 1))

    assert recent.find("a").input is None


def test_a_truth_is_of_one_prediction_and_not_of_the_next_in_its_place(model: ServedModel) -> None:
    recent = made(model, 1, 1)
    recent.remember("a", model, answers(7), b"")
    first = recent.find("a")
    recent.set_truth(first, 4)
    told = recent.truth(recent.find("a"))
    recent.remember("a", model, answers(7), b"")

    assert told == 4
    assert recent.truth(recent.find("a")) is None


def test_a_version_that_is_served_no_more_is_still_known(model: ServedModel) -> None:
    recent = made(model)
    recent.remember("a", model, answers(7), b"")
    recent.know([])

    assert recent.find("a").model is model


def test_versions_without_end_are_not_all_known(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_MODELS", 1)
    recent = made(model)
    recent.remember("a", model, answers(7), b"")
    recent.know([ServedModel(model.manifest.model_copy(update={"version": 9}), default=True)])

    with pytest.raises(NotFound):
        recent.find("a")
