"""The latest predictions of each version beside those for held-out inputs, shared by processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.manifest import Distribution, Distributions, ModelManifest
from service.engine.messages import BlockAnswer
from service.engine.served_models import ServedModel
from service.shared_lock import SharedLock
from service.telemetry import drift as module
from service.telemetry.drift import Drift, State
from service.telemetry.metrics.recorder import Recorder
from tests.registries import DISTRIBUTIONS, SCORED, ScoredRows, publish

WINDOW = DISTRIBUTIONS.window


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    return publish(tmp_path_factory.mktemp("registry"), module=ScoredRows(), **SCORED, distributions=DISTRIBUTIONS)


@pytest.fixture
def model(manifest: ModelManifest) -> ServedModel:
    return ServedModel(manifest, default=True)


@pytest.fixture
def drift(tmp_path: Path) -> Drift:
    return Drift(tmp_path)


def ordinary(n: int = WINDOW, seed: int = 0) -> tuple[Any, Any, Any]:
    chance = np.random.default_rng(seed)
    return chance.integers(0, 10, n).astype(np.int32), chance.random(n), chance.random(n)


def put(drift: Drift, model: ServedModel, predictions: tuple[Any, Any, Any], **more: Any) -> State:
    drift.add(model, *predictions, **more)
    state = drift.state(model)
    assert state is not None
    return state


def test_ordinary_predictions_are_no_drift(drift: Drift, model: ServedModel) -> None:
    state = put(drift, model, ordinary())

    assert (state.images, state.text) == (WINDOW, "ordinary")
    assert all(ratio < 1 for ratio in state.ratios.values())


def test_nothing_is_said_before_the_window_is_full(drift: Drift, model: ServedModel) -> None:
    state = put(drift, model, ordinary(WINDOW - 1))

    assert (state.images, state.ratios, state.text) == (WINDOW - 1, {}, "filling")
    assert put(drift, model, ordinary(1)).ratios


@pytest.mark.parametrize("place", range(3))
def test_each_distribution_is_watched(place: int, drift: Drift, model: ServedModel) -> None:
    predictions = list(ordinary())
    predictions[place] = predictions[place] * 0

    state = put(drift, model, (predictions[0], predictions[1], predictions[2]))

    assert state.text == "drifting"
    assert [name for name, ratio in state.ratios.items() if ratio > 1] == [module.DISTRIBUTIONS[place]]


def test_the_window_slides(drift: Drift, model: ServedModel) -> None:
    class_ids, confidences, scores = ordinary()
    states = [put(drift, model, ordinary())]
    states += [put(drift, model, (class_ids[:50], confidences[:50] * 0.1, scores[:50])) for _ in range(8)]
    states += [put(drift, model, ordinary(50, seed)) for seed in range(8)]

    assert [states[0].text, states[8].text, states[16].text] == ["ordinary", "drifting", "ordinary"]
    assert states[8].ratios["confidence"] > states[4].ratios["confidence"] > states[0].ratios["confidence"]


def test_of_more_predictions_than_fit_the_latest_count(drift: Drift, model: ServedModel) -> None:
    odd, even = ordinary(10_000), ordinary(2000)

    state = put(drift, model, tuple(np.concatenate([a * 0, b]) for a, b in zip(odd, even, strict=True)))  # type: ignore[arg-type]

    assert state.text == "ordinary"


def test_blank_pictures_are_among_the_strangest(drift: Drift, model: ServedModel) -> None:
    put(drift, model, ordinary())

    few, many = put(drift, model, ordinary(0), blank=5), put(drift, model, ordinary(0), blank=WINDOW)

    assert few.ratios["outlier"] < 1 < many.ratios["outlier"]


def test_processes_share_a_window(drift: Drift, model: ServedModel, tmp_path: Path) -> None:
    class_ids, confidences, scores = ordinary()
    context = multiprocessing.get_context("fork")
    for half in (slice(0, WINDOW // 2), slice(WINDOW // 2, None)):
        process = context.Process(target=drift.add, args=(model, class_ids[half], confidences[half], scores[half]))
        process.start()
        process.join()

    assert drift.state(model) == put(Drift(tmp_path), model, (class_ids, confidences, scores))


def test_a_process_that_stopped_with_the_lock_costs_predictions_and_no_time(
    drift: Drift, model: ServedModel, tmp_path: Path
) -> None:
    stopped = SharedLock(tmp_path / "drift.lock")
    stopped.take()
    during = put(drift, model, ordinary())
    stopped.free()

    assert during.images == 0
    assert put(drift, model, ordinary()).images == WINDOW


def test_versions_have_windows_of_their_own_and_the_longest_unused_is_given_away(
    drift: Drift, model: ServedModel, manifest: ModelManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        ServedModel(manifest.model_copy(update={"version": number}), default=False)
        for number in range(2, module._VERSIONS + 2)
    ]
    put(drift, model, ordinary(10))
    for other in others:
        put(drift, other, ordinary(20))

    assert {put(drift, other, ordinary(0)).images for other in others} == {20}
    assert drift.state(model) == State(0, WINDOW, {})


def test_a_version_without_distributions_is_not_watched(drift: Drift, manifest: ModelManifest) -> None:
    unwatched = ServedModel(manifest.model_copy(update={"distributions": None}), default=True)

    drift.add(unwatched, *ordinary())

    assert drift.state(unwatched) is None
    assert list(drift.gauges([unwatched])) == []


def test_a_version_without_scores_is_watched_by_class_and_confidence(drift: Drift, manifest: ModelManifest) -> None:
    found = DISTRIBUTIONS.model_copy(update={"scores": None})
    unscored = ServedModel(manifest.model_copy(update={"distributions": found}), default=True)
    class_ids, confidences, _ = ordinary()

    state = put(drift, unscored, (class_ids, confidences, np.empty(0)), blank=3)

    assert state.text == "ordinary"
    assert list(state.ratios) == ["class", "confidence"]


def test_what_workers_answer_reaches_the_window_and_what_a_model_failed_on_does_not(
    drift: Drift, model: ServedModel, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, drift=drift)
    class_ids, confidences, scores = (column.tolist() for column in ordinary())
    for start in range(0, WINDOW, 100):
        some = slice(start, start + 100)
        ids = [-1, -2, *class_ids[some]]
        values = [float("nan")] * 2
        answer = BlockAnswer(ids, values + confidences[some], memoryview(b""), 10, 102, 0, 0, values + scores[some])
        recorder.block(model, answer)
    recorder.abstained(model, blank=2, foreign=1)
    recorder.flush([model], [])

    alone = Drift(tmp_path)
    alone.add(model, *ordinary(), blank=2)
    assert drift.state(model) == alone.state(model)


def test_a_blank_picture_alone_is_counted_too(drift: Drift, model: ServedModel, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, drift=drift)
    recorder.abstained(model, blank=3, foreign=0)
    recorder.flush([model], [])

    assert drift.state(model) == State(3, WINDOW, {})


def test_metrics_have_a_ratio_for_each_distribution(drift: Drift, model: ServedModel) -> None:
    put(drift, model, ordinary())

    found = {(family.name, labels[2:]): value for family, labels, value in drift.gauges([model])}

    assert found.pop(("inference_drift_window_images", ())) == WINDOW
    assert set(found) == {("inference_drift_ratio", (name,)) for name in module.DISTRIBUTIONS}


def test_distributions_of_another_shape_are_no_manifest(manifest: ModelManifest) -> None:
    for classes in (Distribution(counts=(1, 2), limit=1), Distribution(edges=(0.5,), counts=(1, 2), limit=1)):
        with pytest.raises(ValueError, match=r"count for each class|classes none"):
            ModelManifest.model_validate(
                manifest.model_dump()
                | {"distributions": {**DISTRIBUTIONS.model_dump(), "classes": classes.model_dump()}}
            )
    with pytest.raises(ValueError, match="ascend"):
        Distribution(edges=(0.9, 0.5), counts=(1, 1, 1), limit=1)
    with pytest.raises(ValueError, match="3 counts need 2 edges"):
        Distribution(edges=(0.9,), counts=(1, 1, 1), limit=1)


def test_distributions_are_validated_as_a_whole() -> None:
    with pytest.raises(ValueError, match="must have edges"):
        Distributions.model_validate(
            {**DISTRIBUTIONS.model_dump(), "confidences": Distribution(counts=(1, 1), limit=1).model_dump()}
        )
