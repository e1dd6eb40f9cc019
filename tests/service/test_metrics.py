"""What one HTTP process counts is in the sums of all, and in bulk comes out as one by one.

Whether prometheus_client's numbers are shared is decided when it is imported, so each test is a program of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str, folder: Path) -> str:
    """What `program` prints, in a fresh interpreter whose metrics are shared through `folder`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def samples(exposition: str) -> dict[str, float]:
    """Every line of an exposition: name and labels to value."""
    lines = [line for line in exposition.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


COUNT = """
import sys
from service import metrics
recorder = metrics.Recorder()
recorder.request("rows", "1", 200, 0.0004)
recorder.request("rows", "1", 200, 0.02)
recorder.request("", "", 404, 0.001)
recorder.block("rows", "1", images=3, batch_size=5, queue_seconds=0.002, compute_seconds=0.004)
recorder.flush(7)
recorder.flush(7)  # hands in nothing twice
"""

EXPOSE = """
from service import metrics
print(metrics.expose().decode())
"""


def test_the_numbers_of_two_processes_add_up(tmp_path: Path) -> None:
    for _ in range(2):
        run(COUNT, tmp_path)

    found = samples(run(EXPOSE, tmp_path))

    assert found['inference_requests_total{code="200",model="rows",version="1"}'] == 4
    assert found['inference_requests_total{code="404",model="",version=""}'] == 2
    assert found['inference_images_total{model="rows",version="1"}'] == 6
    assert found['inference_request_duration_seconds_bucket{le="0.0005",model="rows",version="1"}'] == 2
    assert found['inference_request_duration_seconds_bucket{le="+Inf",model="rows",version="1"}'] == 4
    assert found['inference_request_duration_seconds_sum{model="rows",version="1"}'] == pytest.approx(0.0408)
    assert found['inference_batch_size_bucket{le="4.0",model="rows",version="1"}'] == 0
    assert found['inference_batch_size_bucket{le="8.0",model="rows",version="1"}'] == 2
    for stage, seconds in (("queue", 0.002), ("compute", 0.004)):
        labels = f'{{model="rows",stage="{stage}",version="1"}}'
        assert found[f"inference_stage_duration_seconds_count{labels}"] == 2
        assert found[f"inference_stage_duration_seconds_sum{labels}"] == pytest.approx(2 * seconds)


def test_the_gauge_of_a_process_that_died_is_forgotten_and_its_counters_stay(tmp_path: Path) -> None:
    run(COUNT, tmp_path)
    pid = int(re.fullmatch(r"gauge_livesum_(\d+)\.db", next(tmp_path.glob("gauge_*")).name)[1])
    before = samples(run(EXPOSE, tmp_path))

    run(f"from service import metrics; metrics.forget_process({pid})", tmp_path)

    after = samples(run(EXPOSE, tmp_path))
    assert before["inference_queue_depth"] == 7
    assert after.get("inference_queue_depth", 0) == 0
    assert after['inference_requests_total{code="200",model="rows",version="1"}'] == 2


def test_every_metric_bears_the_prefix_and_a_help_text(tmp_path: Path) -> None:
    exposition = run(COUNT + EXPOSE, tmp_path)

    names = re.findall(r"^# HELP (\S+) (.*)$", exposition, re.MULTILINE)
    assert len(names) >= 6
    assert all(name.startswith("inference_") and text for name, text in names)


def test_values_in_bulk_land_in_the_buckets_that_they_land_in_one_by_one(tmp_path: Path) -> None:
    found = samples(
        run(
            """
import random
from prometheus_client import Histogram
from service import metrics

options = {"labelnames": ["which"], "buckets": metrics._SECONDS, "registry": metrics._REGISTRY}
bulk, single = (Histogram(name, name, **options) for name in ("bulk", "single"))
chance = random.Random(0)
for which in ("none", "few", "many", "bounds", "beyond"):
    values = {
        "none": [],
        "few": [0.003, 0.1],
        "many": [chance.expovariate(20) for _ in range(2000)],
        "bounds": [*metrics._SECONDS, *metrics._SECONDS],  # a bound belongs to its own bucket
        "beyond": [0.0, 11.0, 1e9],
    }[which]
    metrics._observe_all(bulk.labels(which), values)
    for value in values:
        single.labels(which).observe(value)
    single.labels(which)
print(metrics.expose().decode())
""",
            tmp_path,
        )
    )

    bulk = {name.removeprefix("bulk"): value for name, value in found.items() if name.startswith("bulk")}
    single = {name.removeprefix("single"): value for name, value in found.items() if name.startswith("single")}
    assert len(bulk) >= 5 * 20
    assert bulk == pytest.approx(single)
