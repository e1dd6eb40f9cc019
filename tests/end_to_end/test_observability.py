"""What a running service shows of itself is what the dashboard, the alerts and a real Prometheus look for.

The last test harms the service that the others share.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.api.keys import make
from service.contract.manifest import FeatureInput
from service.contract.registry import Registry
from tests import load, pictures, running
from tests.end_to_end.prometheus import Prometheus, scraping
from tests.registries import DISTRIBUTIONS, RGB, SCORED, FirstFeature, ScoredRows, publish
from tests.running import Service, serving
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "k8s" / "base" / "dashboard.json"
RULES = ROOT / "k8s" / "base" / "prometheusrule.yaml"
DOCUMENT = ROOT / "docs" / "observability.md"
KEY, KEY_LINE = make("dashboards", frozenset({"predict", "feedback"}))
TRACE = "0af7651916cd43dd8448eb211c80319c"
MARK = b"what an image holds"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has had traffic of every kind; where there is no GPU, NVML is a fake."""
    root = tmp_path_factory.mktemp("registry")
    # Two predictions of the 3,000 are a window, in which nothing is far.
    seen = DISTRIBUTIONS.model_copy(update={"window": 2})
    publish(root, "rows", ScoredRows(), **SCORED, distributions=seen)
    publish(root, "photos", spec=RGB)
    publish(root, "sign", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    Registry(str(root)).set_alias("rows", "production", 1)
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY_LINE}\n")
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(running, "as_commands", True)  # torch, too, imports NVML's package where it finds it first
            patch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'fakes'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        options = ("--default-model", "rows", "--http-processes", "2", "--api-keys-file", str(keys))
        feedback = ("--feedback-predictions", "100")
        with serving(root, *options, *feedback, "--log-format", "json", "--log-requests", "1000") as service:
            service.client.headers["x-api-key"] = KEY
            ask_everything(service)
            service.metric_at_rest("inference_requests_total")
            yield service


def ask_everything(service: Service) -> None:
    digit = pictures.row_png(7)
    assert service.predict(digit).status_code == 200
    assert service.predict(digit, query="?model=photos").status_code == 200
    assert service.predict(b'{"features": [[1, 2]]}', "application/json", "?model=sign").status_code == 200
    assert service.predict(digit[:60] + MARK).status_code == 400
    assert service.predict(digit, query="?model=nope").status_code == 404
    several = {"a": ("a.png", digit), "b": ("b.png", MARK)}
    traced = {"x-request-id": "two", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    answer = service.client.post("/predict", files=several, headers=traced)
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert [next(iter(entry)) for entry in answer.json()["predictions"]] == ["class_id", "error"]
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    sent = service.client.post("/v2/models/sign/infer", json={"inputs": [tensor]}, headers={"x-request-id": "v2"})
    assert (sent.status_code, sent.headers["x-request-id"]) == (200, "v2")
    assert service.client.post("/feedback", json={"request_id": "v2", "class_id": 1}).status_code == 200


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def dashboard_expressions() -> dict[str, str]:
    """Each expression of the dashboard on the service with its variables filled in, by its panel's title.

    What training jobs push is held to their figures by tests/training/cli/test_job_metrics.py.
    """
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    found = {f"{panel['title']} {t['refId']}": t["expr"] for panel in panels for t in panel["targets"]}
    found = {name: text for name, text in found.items() if "training_" not in text}
    found |= {note["name"]: note["expr"] for note in dashboard()["annotations"]["list"]}
    values = {"$__rate_interval": "1m", "$model": ".*", "$instance": ".*"}
    return {name: re.sub(r"\$\w+", lambda match: values[match[0]], text) for name, text in found.items()}


def rules() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(RULES.read_text())["spec"]
    return spec


def alert_expressions() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in rules()["groups"] for rule in group["rules"]}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:inference|argmax|up)(?:_[a-z0-9_]+)\b", expression))


def exposed(service: Service) -> dict[str, float]:
    """Every sample that the service exposes now."""
    text = httpx.get(f"{service.url}/metrics", timeout=60).text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def names(samples: dict[str, float]) -> set[str]:
    return {sample.partition("{")[0] for sample in samples}


@pytest.mark.parametrize("expressions", [dashboard_expressions, alert_expressions])
def test_every_metric_that_is_looked_for_is_one_that_the_service_exposes(watched: Service, expressions: Any) -> None:
    wanted = {name: metrics_in(text) for name, text in expressions().items()}

    there = names(exposed(watched))

    assert all(wanted.values())
    assert not {place: missing for place, found in wanted.items() if (missing := found - there)}


def test_every_metric_that_is_exposed_is_on_the_dashboard_or_in_an_alert_and_in_the_document(watched: Service) -> None:
    watched_for = " ".join([*dashboard_expressions().values(), *alert_expressions().values()])
    families = list(text_string_to_metric_families(httpx.get(f"{watched.url}/metrics", timeout=60).text))

    documented = DOCUMENT.read_text()

    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.name in watched_for, family.name
        assert f"`{name}`" in documented, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        (row,) = [line for line in documented.splitlines() if line.startswith(f"| `{name}`")]
        assert set(re.findall(r"\w+", row.split("|")[3])) == labels, row


def test_every_alert_is_in_the_document(watched: Service) -> None:
    documented = DOCUMENT.read_text()

    assert [name for name in alert_expressions() if f"`{name}`" not in documented] == []


def test_what_was_asked_is_counted_by_model_version_and_outcome(watched: Service) -> None:
    watched.wait_for_metric(3, "inference_requests_total", model="rows")

    assert watched.metric("inference_requests_total", model="photos", version="1", code="200") == 1
    assert watched.metric("inference_requests_total", model="sign", version="1", code="200") == 2
    assert watched.metric("inference_requests_total", model="", version="", code="404") == 1
    assert watched.metric("inference_request_failures_total", model="rows", reason="bad_input") == 1
    assert watched.metric("inference_request_failures_total", model="", reason="not_found") == 1
    assert watched.metric("inference_image_failures_total", model="rows", reason="bad_input") == 1
    assert watched.metric("inference_prediction_class_total", model="rows", **{"class": "7"}) == 2
    for stage in ("read", "decode", "queue", "compute", "encode"):
        assert watched.metric("inference_stage_duration_seconds_count", model="rows", stage=stage) == 2
    for stage in ("decode", "queue", "compute", "encode"):  # a body that came along with its head took no time to read
        assert watched.metric("inference_stage_duration_seconds_sum", model="rows", stage=stage) > 0


def test_the_stages_of_a_request_add_up_to_no_more_than_the_request(watched: Service) -> None:
    watched.wait_for_metric(2, "inference_request_duration_seconds_count", model="sign")

    stages = watched.metric("inference_stage_duration_seconds_sum", model="sign")

    assert 0 < stages <= watched.metric("inference_request_duration_seconds_sum", model="sign")


def test_the_state_of_the_service_is_shown(watched: Service) -> None:
    assert watched.metric("inference_worker_up", worker="0") == 1
    assert watched.metric("inference_http_processes") == 2
    assert watched.metric("inference_model_info", model="rows", version="1", default="true", format="torchscript") == 1
    assert watched.metric("inference_model_alias_info", model="rows", alias="production", version="1") == 1
    assert watched.metric("inference_model_ready", model="rows", version="1") == 1
    assert watched.metric("inference_queue_capacity") > 0
    assert watched.metric("inference_queue_oldest_age_seconds", model="rows") == 0
    assert 0 < watched.metric("inference_gpu_memory_used_bytes") <= watched.metric("inference_gpu_memory_total_bytes")
    assert watched.metric_at_rest("inference_in_flight") == 0
    assert watched.metric("argmax_build_info", version=version("argmax"), torch=version("torch")) == 1
    for process in ("supervisor", "http-0", "http-1", "worker-0"):
        role = process.partition("-")[0]
        assert watched.metric("inference_process_resident_memory_bytes", role=role, process=process) > 2**20
        assert watched.metric("inference_process_open_fds", role=role, process=process) > 2
    assert watched.metric("inference_process_cpu_seconds_total", role="worker") > 0


def test_requests_are_counted_by_the_name_of_their_key(watched: Service) -> None:
    answered = watched.wait_for_metric(5, "inference_key_requests_total", key="dashboards", code="200")

    assert answered == watched.metric("inference_requests_total", code="200")
    assert watched.metric("inference_key_requests_total", key="dashboards", code="400") == 1


def test_the_log_has_a_json_line_for_each_request_and_nothing_of_images_or_keys(watched: Service) -> None:
    watched.wait_for_log('"request_id":"v2"')
    watched.wait_for_log('"request_id":"two"')
    watched.wait_for_log('"outcome":"not_found"')

    lines = [orjson.loads(line) for line in watched.log]

    requests = {line["request_id"]: line for line in lines if line["logger"] == "service.requests"}
    assert (requests["two"]["model"], requests["two"]["key"], requests["two"]["trace_id"]) == (
        "rows",
        "dashboards",
        TRACE,
    )
    assert "trace_id" not in requests["v2"]
    assert requests["v2"].items() >= {"model": "sign", "version": "1", "outcome": "ok", "status": 200}.items()
    assert requests["v2"]["compute_seconds"] > 0
    outcomes = sorted(line["outcome"] for line in requests.values())
    assert outcomes[:2] == ["bad_input", "not_found"]
    assert set(outcomes[2:]) == {"ok"}
    assert {line["process"] for line in lines} >= {"MainProcess", "worker-0"}
    assert KEY not in watched.text
    assert MARK.decode() not in watched.text


def test_the_dashboard_can_be_imported_anywhere() -> None:
    document = dashboard()

    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    sources = {json.dumps(panel["datasource"]) for panel in panels} | {
        json.dumps(target["datasource"]) for panel in panels for target in panel["targets"]
    }

    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert "datasource" in [variable["type"] for variable in document["templating"]["list"]]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    taken = {
        (x, y)
        for panel in document["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(taken) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in document["panels"])
    assert max(x for x, _ in taken) < 24


# With a real Prometheus


@pytest.fixture(scope="module")
def prometheus(watched: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with scraping(watched.port, tmp_path_factory.mktemp("prometheus"), rules()) as running:
        running.wait_for("inference_requests_total")
        ask_everything(watched)  # between two scrapes, so that there is a rate
        count = 'count_over_time(inference_http_processes{job="argmax"}[1m])'
        running.wait_for(f"{count} >= {running.value(count) + 3}")
        yield running


@pytest.mark.prometheus
def test_prometheus_reads_back_what_the_service_counted(watched: Service, prometheus: Prometheus) -> None:
    for name, labels in {
        "inference_requests_total": {"model": "rows", "code": "200"},
        "inference_request_duration_seconds_count": {"model": "sign"},
        "inference_batch_size_sum": {"model": "photos"},
        "inference_worker_up": {},
        "inference_queue_capacity": {},
    }.items():
        selector = ",".join(f'{key}="{value}"' for key, value in labels.items())
        assert prometheus.value(f"sum({name}{{{selector}}})") == watched.metric(name, **labels) > 0, name
    assert prometheus.query("up == 0") == []
    assert prometheus.get("targets")["activeTargets"][0]["lastError"] == ""


@pytest.mark.prometheus
def test_every_panel_of_the_dashboard_has_something_to_show(prometheus: Prometheus) -> None:
    empty = [name for name, text in dashboard_expressions().items() if not prometheus.query(text)]

    assert empty == ["Versions loaded"]  # nothing was loaded since Prometheus looks


@pytest.mark.prometheus
def test_every_alert_is_evaluated_and_none_fires_for_a_service_that_is_well(prometheus: Prometheus) -> None:
    wait_until(lambda: "unknown" not in {rule["health"] for rule in evaluated(prometheus)}, 60, interval=0.2)

    found = evaluated(prometheus)

    assert {rule["name"] for rule in found} == alert_expressions().keys()
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in found if rule["state"] == "firing"] == []


def evaluated(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


# Harm


def test_no_counter_goes_back_when_a_worker_and_an_http_process_are_killed_under_load(watched: Service) -> None:
    seen: list[dict[str, float]] = []
    tally = load.Tally()

    def look() -> None:
        while not tally.stop:
            try:
                seen.append(exposed(watched))
            except httpx.HTTPError:  # the process that was asked is the one that was killed
                continue

    def harm() -> None:
        time.sleep(0.5)
        watched.processes("worker")[0].kill()
        watched.wait_for_metric(1, "inference_worker_restarts_total", reason="crashed")
        watched.processes("http")[0].kill()
        watched.client.close()
        watched.client = httpx.Client(base_url=watched.url, timeout=60, headers={"x-api-key": KEY})
        watched.wait_for_metric(1, "inference_http_restarts_total")
        watched.wait_for_metric(2, "inference_http_processes")
        tally.stop = True

    threads = [threading.Thread(target=look), threading.Thread(target=harm)]
    for thread in threads:
        thread.start()
    asyncio.run(load.send_all(watched.port, 10**9, connections=8, retry_lost=True, tally=tally, api_key=KEY))
    for thread in threads:
        thread.join()

    # A process that takes another's place starts counting CPU time from 0.
    counters = re.compile(r"inference_(?!process_cpu)\w+_(total|count|sum|bucket)\b")
    for before, after in itertools.pairwise(seen):
        lower = {name: (value, after.get(name)) for name, value in before.items() if after.get(name, 0) < value - 1e-9}
        assert not {name: values for name, values in lower.items() if counters.match(name)}
    assert len(seen) > 3
    seen.append(exposed(watched))
    assert seen[-1]['inference_worker_restarts_total{reason="crashed"}'] == 1
    assert seen[-1]["inference_http_restarts_total"] == 1
    assert seen[-1]["inference_http_processes"] == 2
    assert tally.wrong == []
