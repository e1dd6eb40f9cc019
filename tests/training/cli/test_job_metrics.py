from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.contract.manifest import Metric
from training.cli.job_metrics import Figures
from training.settings import JobSettings

DASHBOARD = Path(__file__).parents[3] / "k8s" / "base" / "dashboard.json"
MEASURED = [
    Metric(name="accuracy", value=0.98, data="mnist/test", n=10),
    Metric(name="accuracy", value=0.97, data="mnist/held-out", n=10),
    Metric(name="nll", value=0.1, data="mnist/test", n=10),
    Metric(name="brier", value=0.2, data="mnist/test", n=10),
]


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("data", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["model"] == "mnist"
    }


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Address of a gateway, and what it was sent."""
    sent: list[tuple[str, str, str]] = []

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(("POST", self.path, self.rfile.read(int(self.headers["content-length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_leaves_its_figures_in_a_textfile(tmp_path: Path) -> None:
    file = tmp_path / "mnist.prom"

    Figures("mnist", exit_code=0, seconds=12.5, metrics=MEASURED, version=3).send(JobSettings(metrics_textfile=file))

    told = samples(file.read_text())
    times = {told.pop((f"training_last_{what}_timestamp_seconds", "")) for what in ("run", "success")}
    assert len(times) == 1
    assert told == {
        ("training_accuracy", "mnist/test"): 0.98,
        ("training_accuracy", "mnist/held-out"): 0.97,
        ("training_loss", "mnist/test"): 0.1,
        ("training_version", ""): 3,
        ("training_run_seconds", ""): 12.5,
        ("training_last_run_exit_code", ""): 0,
    }
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_time_of_the_last_success_in_the_textfile(tmp_path: Path) -> None:
    settings = JobSettings(metrics_textfile=tmp_path / "mnist.prom")
    assert settings.metrics_textfile is not None
    Figures("mnist", exit_code=0, seconds=1).send(settings)
    success = samples(settings.metrics_textfile.read_text())["training_last_success_timestamp_seconds", ""]

    for _ in range(2):
        Figures("mnist", exit_code=75, seconds=1).send(settings)

    told = samples(settings.metrics_textfile.read_text())
    assert told["training_last_success_timestamp_seconds", ""] == success
    assert told["training_last_run_timestamp_seconds", ""] > success
    assert told["training_last_run_exit_code", ""] == 75


def test_a_gateway_gets_them_in_a_group_of_the_model_and_keeps_the_last_success(
    gateway: tuple[str, list[tuple[str, str, str]]],
) -> None:
    url, sent = gateway

    Figures("mnist", exit_code=3, seconds=2.0, metrics=MEASURED).send(JobSettings(pushgateway=url))

    ((method, path, text),) = sent
    told = samples(text)
    assert (method, path) == ("POST", "/metrics/job/training/model/mnist")  # POST replaces what it names, and no more
    assert told["training_last_run_exit_code", ""] == 3
    assert ("training_last_success_timestamp_seconds", "") not in told


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "http://127.0.0.1:1/a b"])
def test_a_gateway_or_folder_that_is_not_there_is_a_warning(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = JobSettings(pushgateway=url, metrics_textfile=tmp_path / "nowhere" / "mnist.prom")

    Figures("mnist", exit_code=0, seconds=1).send(settings)

    assert f"the figures are not at {url}" in caplog.text
    assert "the figures are not in" in caplog.text


def test_a_textfile_that_is_none_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "mnist.prom"
    file.write_text("training_last_success_timestamp_seconds{ broken\n")

    Figures("mnist", exit_code=0, seconds=1).send(JobSettings(metrics_textfile=file))

    assert samples(file.read_text())["training_last_run_exit_code", ""] == 0


def test_the_dashboard_looks_for_figures_that_a_run_has() -> None:
    collected = Figures("mnist", exit_code=0, seconds=1, metrics=MEASURED, version=1).collected()
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]

    wanted = set(re.findall(r"training_\w+", " ".join(t["expr"] for panel in panels for t in panel["targets"])))

    assert len(wanted) >= 4
    assert wanted <= {family.name for family in collected.collect()}
