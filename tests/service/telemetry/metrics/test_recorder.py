"""What processes count is summed as if one had counted it, and in bulk as if one by one; nothing goes back or grows."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.engine.messages import BlockAnswer
from service.engine.served_models import ServedModel
from service.telemetry.metrics import exposition, families, retention
from service.telemetry.metrics.families import FAMILIES
from service.telemetry.metrics.recorder import STAGES, Recorder, Stages
from service.telemetry.metrics.snapshots import KEEPER, Shared
from service.telemetry.metrics.totals import Snapshot, Totals
from tests.registries import publish

ROWS = 'model="rows",version="1"'


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return served(tmp_path_factory.mktemp("registry"))


def served(root: Path) -> ServedModel:
    manifest = publish(root, "rows")
    return ServedModel(manifest, default=True)


def answer(class_ids: list[int], confidences: list[float], batch_size: int, seconds: float = 0.004) -> BlockAnswer:
    return BlockAnswer(class_ids, confidences, memoryview(array("f")), 10, batch_size, 0.0, seconds)


def stages(**seconds: float) -> Stages:
    read, decode, queue, compute, encode = (seconds.get(name, 0.0) for name in STAGES)
    return read, decode, queue, compute, encode


def flush(
    recorder: Recorder, *offered: ServedModel, gauges: tuple[tuple[families.Family, tuple[str, ...], float], ...] = ()
) -> None:
    write = recorder.flush(offered, gauges, rests=False)
    assert write
    write()


def exposed(folder: Path) -> dict[str, float]:
    """Every line of the exposition: name and labels to value."""
    lines = [line for line in exposition.expose(folder).decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def count(recorder: Recorder, model: ServedModel) -> None:
    recorder.answered(model, stages(read=0.0001, decode=0.0002))
    recorder.answered(model, stages(read=0.0001, decode=0.0002, queue=0.0197))
    recorder.refused(None, 404, "not_found")
    recorder.refused(model, 429, "queue_full")
    recorder.block(model, answer([7, 7, -1], [0.9, 0.6, float("nan")], batch_size=5))
    flush(recorder, model, gauges=((families.QUEUE_DEPTH, ("rows",), 7),))
    flush(recorder, model, gauges=((families.QUEUE_DEPTH, ("rows",), 7),))  # hands in nothing twice


def test_the_numbers_of_two_processes_add_up(tmp_path: Path, rows: ServedModel) -> None:
    for _ in range(2):
        count(Recorder(tmp_path), rows)

    found = exposed(tmp_path)

    assert found[f'inference_requests_total{{code="200",{ROWS}}}'] == 4
    assert found['inference_requests_total{code="404",model="",version=""}'] == 2
    assert found['inference_request_failures_total{model="rows",reason="queue_full",version="1"}'] == 2
    assert found[f"inference_images_total{{{ROWS}}}"] == 6
    assert found['inference_image_failures_total{model="rows",reason="model_error",version="1"}'] == 2
    assert found[f'inference_request_duration_seconds_bucket{{le="0.0005",{ROWS}}}'] == 2
    assert found[f'inference_request_duration_seconds_bucket{{le="+Inf",{ROWS}}}'] == 4
    assert found[f"inference_request_duration_seconds_sum{{{ROWS}}}"] == pytest.approx(2 * 0.0203)
    assert found['inference_queue_depth{model="rows"}'] == 14
    for stage, seconds in (("read", 0.0001), ("decode", 0.0002), ("queue", 0.00985)):
        labels = f'{{model="rows",stage="{stage}",version="1"}}'
        assert found[f"inference_stage_duration_seconds_count{labels}"] == 4
        assert found[f"inference_stage_duration_seconds_sum{labels}"] == pytest.approx(4 * seconds)
    assert found['inference_prediction_class_total{class="7",model="rows",version="1"}'] == 4
    assert found['inference_prediction_class_total{class="0",model="rows",version="1"}'] == 0
    assert found[f'inference_prediction_confidence_bucket{{le="0.6",{ROWS}}}'] == 2
    assert found[f"inference_prediction_confidence_count{{{ROWS}}}"] == 4


def test_blocks_that_shared_a_batch_count_it_once_together(tmp_path: Path, rows: ServedModel) -> None:
    one, other = Recorder(tmp_path), Recorder(tmp_path)
    one.block(rows, answer([1, 2, 3], [1.0] * 3, batch_size=5, seconds=0.5))
    other.block(rows, answer([4, 5], [1.0] * 2, batch_size=5, seconds=0.5))

    flush(one, rows)
    flush(other, rows)

    found = exposed(tmp_path)
    assert found[f"inference_executions_total{{{ROWS}}}"] == pytest.approx(1)
    assert found[f"inference_compute_seconds_total{{{ROWS}}}"] == pytest.approx(0.5)
    assert found[f"inference_batch_size_count{{{ROWS}}}"] == pytest.approx(1)
    assert found[f"inference_batch_size_sum{{{ROWS}}}"] == pytest.approx(5)
    assert found[f'inference_batch_size_bucket{{le="4.0",{ROWS}}}'] == 0


def test_what_a_version_may_count_is_there_before_it_happens(tmp_path: Path, rows: ServedModel) -> None:
    flush(Recorder(tmp_path), rows)

    found = exposed(tmp_path)

    assert found[f'inference_requests_total{{code="200",{ROWS}}}'] == 0
    assert found['inference_request_failures_total{model="rows",reason="model_error",version="1"}'] == 0
    assert found['inference_stage_duration_seconds_bucket{le="+Inf",model="rows",stage="encode",version="1"}'] == 0
    assert 'inference_request_failures_total{model="rows",reason="not_found",version="1"}' not in found


def test_the_gauges_of_a_process_that_died_are_forgotten_and_its_counters_stay(
    tmp_path: Path, rows: ServedModel
) -> None:
    keeper = Recorder(tmp_path, keeper=True)
    keeper.open()
    count(Recorder(tmp_path), rows)
    before = exposed(tmp_path)

    keeper.http_restart(os.getpid())

    after = exposed(tmp_path)
    assert before['inference_queue_depth{model="rows"}'] == 7
    assert 'inference_queue_depth{model="rows"}' not in after
    assert after[f'inference_requests_total{{code="200",{ROWS}}}'] == 2
    assert after[f"inference_request_duration_seconds_count{{{ROWS}}}"] == 2
    assert (before["inference_http_restarts_total"], after["inference_http_restarts_total"]) == (0, 1)
    assert not Shared(tmp_path).names()


def test_a_sum_taken_while_a_dead_process_is_absorbed_counts_it_once(tmp_path: Path, rows: ServedModel) -> None:
    keeper = Recorder(tmp_path, keeper=True)
    keeper.open()
    count(Recorder(tmp_path), rows)
    (name,) = Shared(tmp_path).names()
    left = (tmp_path / f"{name}.numbers").read_bytes()
    keeper.worker_restart(os.getpid(), "crashed")
    (tmp_path / f"{name}.numbers").write_bytes(left)  # as a reader finds it who listed the folder before

    found = exposed(tmp_path)

    assert found[f'inference_requests_total{{code="200",{ROWS}}}'] == 2
    assert found['inference_worker_restarts_total{reason="crashed"}'] == 1
    assert found['inference_worker_restarts_total{reason="hung"}'] == 0


def test_an_older_snapshot_never_replaces_a_newer_one(tmp_path: Path, rows: ServedModel) -> None:
    recorder = Recorder(tmp_path)
    recorder.answered(rows, stages(queue=0.1))
    write_first = recorder.flush([rows], [])
    recorder.answered(rows, stages(queue=0.1))
    write_second = recorder.flush([rows], [])

    assert write_first
    assert write_second
    write_second()
    write_first()

    assert exposed(tmp_path)[f'inference_requests_total{{code="200",{ROWS}}}'] == 2


def test_a_process_at_rest_hands_in_what_is_new_at_once_and_else_seldom(tmp_path: Path, rows: ServedModel) -> None:
    recorder = Recorder(tmp_path, rest_seconds=60.0)

    def has_something_to_hand_in(depth: float = 0) -> bool:
        return recorder.flush([rows], [(families.QUEUE_DEPTH, ("rows",), depth)]) is not None

    assert has_something_to_hand_in()
    assert not has_something_to_hand_in()
    assert has_something_to_hand_in(depth=1)
    recorder.refused(rows, 429, "queue_full")
    assert has_something_to_hand_in(depth=1)
    recorder.add(families.OMITTED_LINES, 0)
    assert not has_something_to_hand_in(depth=1)
    recorder.add(families.OMITTED_LINES, 3)
    assert has_something_to_hand_in(depth=1)


def test_a_process_at_rest_says_so_again_after_a_while(tmp_path: Path, rows: ServedModel) -> None:
    recorder = Recorder(tmp_path, rest_seconds=0.0)

    assert all(recorder.flush([rows], []) for _ in range(3))


def test_a_full_disk_harms_nothing_but_the_numbers(
    tmp_path: Path, rows: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Recorder(tmp_path, keeper=True)
    keeper.open()
    count(Recorder(tmp_path), rows)

    def refuse(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Shared, "write", refuse)
        keeper.http_restart(os.getpid())
        keeper.http_restart(None)
        during = exposed(tmp_path)
    keeper.http_restart(None)

    after = exposed(tmp_path)
    name = f'inference_requests_total{{code="200",{ROWS}}}'
    assert (during[name], after[name]) == (2, 2)
    assert after["inference_http_restarts_total"] == 3
    assert not Shared(tmp_path).names()
    assert caplog.text.count("No space left on device") == 1


def test_loads_and_self_tests_are_counted_with_when_they_last_went_well(tmp_path: Path, rows: ServedModel) -> None:
    worker = Recorder(tmp_path)
    worker.load("rows", 1, ok=True, seconds=3)
    worker.load("rows", 2, ok=False, seconds=1)
    worker.selftest("rows", 1, ok=True)
    worker.selftest("rows", 1, ok=False)
    flush(Recorder(tmp_path), rows, gauges=((families.MODEL_INFO, ("rows", "1", "ab", "x", "y", "true"), 1),))

    found = exposed(tmp_path)

    assert found['inference_model_load_total{model="rows",result="ok"}'] == 1
    assert found['inference_model_load_total{model="rows",result="refused"}'] == 1
    assert found['inference_model_load_duration_seconds_sum{model="rows",result="ok"}'] == 3
    assert found['inference_selftest_total{model="rows",result="failed",version="1"}'] == 1
    assert found['inference_selftest_total{model="rows",result="ok",version="1"}'] == 2  # one of them at the load
    assert 0 <= found[f"inference_selftest_age_seconds{{{ROWS}}}"] < 60
    assert abs(found[f"inference_model_loaded_timestamp_seconds{{{ROWS}}}"] - time.time()) < 60


def test_a_version_that_is_not_on_offer_has_no_age_and_no_time_of_loading(tmp_path: Path) -> None:
    worker = Recorder(tmp_path)
    worker.load("rows", 1, ok=True, seconds=3)
    worker.selftest("rows", 1, ok=True)

    names = " ".join(exposed(tmp_path))

    assert "inference_selftest_total" in names
    assert "inference_selftest_age_seconds" not in names
    assert "inference_model_loaded_timestamp_seconds" not in names


def test_loads_may_be_counted_on_other_threads_at_the_same_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    threads = [
        threading.Thread(target=lambda: [recorder.load("rows", 1, ok=True, seconds=1) for _ in range(50)])  # type: ignore[func-returns-value]
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert exposed(tmp_path)['inference_model_load_total{model="rows",result="ok"}'] == 200


def test_versions_that_left_are_shown_for_a_while_and_then_forgotten() -> None:
    seen = {("rows", "1"): 0.0, ("rows", "2"): 1000.0, ("photos", "1"): 0.0, ("photos", "2"): 0.0}

    shown = retention.shown(seen, 1000.0)
    kept = retention.kept(seen, 1000.0)

    assert not shown(("rows", "1"))
    assert all(map(shown, [("rows", "2"), ("rows", ""), ("", "")]))
    assert not shown(("photos", ""))
    assert kept(("rows", "1"))
    assert kept(("photos", ""))
    assert not retention.kept(seen, 2000.0)(("rows", "1"))


def test_two_hundred_versions_in_a_row_leave_the_numbers_of_a_few(
    tmp_path: Path, rows: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    keeper, process = Recorder(tmp_path, keeper=True), Recorder(tmp_path)
    sizes = []
    for version in range(1, 201):
        clock[0] += 20
        manifest = rows.manifest.model_copy(update={"version": version})
        model = ServedModel(manifest, default=True)
        process.answered(model, stages(queue=0.1))
        flush(process, model)
        process.prune()
        if version == 100:
            keeper.http_restart(os.getpid())
            process = Recorder(tmp_path)
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))

    found = exposed(tmp_path)

    versions = {match[1] for name in found if (match := re.search(r'inference_requests_total.*version="(\d+)"', name))}
    assert versions == {str(version) for version in range(200 - retention.MAX_RETIRED, 201)}
    assert max(sizes[150:]) < 1.1 * max(sizes[100:150])


def test_every_metric_is_one_that_prometheus_parses(tmp_path: Path, rows: ServedModel) -> None:
    recorder = Recorder(tmp_path, keeper=True)
    recorder.open()
    recorder.load('odd"\\\n', 1, ok=True, seconds=1)
    count(recorder, rows)

    parsed = list(text_string_to_metric_families(exposition.expose(tmp_path).decode()))

    assert len(parsed) > 10
    assert all(family.name.startswith("inference_") and family.documentation for family in parsed)
    assert 'odd"\\\n' in {sample.labels.get("model") for family in parsed for sample in family.samples}


def test_values_in_bulk_land_in_the_buckets_that_they_land_in_one_by_one(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    family = families.REQUEST_SECONDS
    single = Histogram(family.name, family.help, family.labels, buckets=family.buckets, registry=registry)
    totals = Totals()
    chance = random.Random(0)
    for which, values in {
        "none": [],
        "few": [0.003, 0.1],
        "many": [chance.expovariate(20) for _ in range(2000)],
        "bounds": [*family.buckets, *family.buckets],  # a bound belongs to its own bucket
        "beyond": [0.0, 11.0, 1e9],
    }.items():
        totals.observe(family, (which, "1"), np.array(values))
        single.labels(which, "1")
        for value in values:
            single.labels(which, "1").observe(value)

    Shared(tmp_path).write(KEEPER, snapshot(totals))

    expected = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in generate_latest(registry).decode().splitlines()
        if not line.startswith("#") and "_created" not in line
    }
    assert len(expected) == 5 * (len(family.buckets) + 3)
    assert exposed(tmp_path) == pytest.approx(expected)


def snapshot(totals: Totals) -> bytes:
    now = time.monotonic()
    groups = {FAMILIES[name].group_of(labels) for name, series in totals.series.items() for labels in series}
    return Snapshot(totals, dict.fromkeys(groups, now)).to_bytes()


def test_the_age_of_the_registry_is_that_of_the_worker_that_lags_most(tmp_path: Path) -> None:
    now = time.monotonic()
    for seconds in (3.0, 500.0):
        Recorder(tmp_path).registry_read(now - seconds)

    assert 500 <= exposed(tmp_path)["inference_registry_age_seconds"] < 560


def test_a_snapshot_that_was_cut_off_is_passed_over(tmp_path: Path, rows: ServedModel) -> None:
    recorder = Recorder(tmp_path)
    recorder.answered(rows, stages(compute=0.01))
    flush(recorder, rows)
    (tmp_path / "1-1.numbers").write_bytes(b'[[["inference_req')

    assert exposed(tmp_path)[f'inference_requests_total{{code="200",{ROWS}}}'] == 1
