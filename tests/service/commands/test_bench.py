"""The load test: what it counts is what happened."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.__main__ import main
from service.commands import bench
from service.commands.load import Load, Report
from tests import pictures
from tests.running import Service

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a short bench of the service; gives exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["bench", "--url", service.url, "--seconds", "0.4", "--connections", "4", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# Against the service


def test_the_answers_that_are_counted_are_those_that_the_service_gave(service: Service, run: Run) -> None:
    before = service.metric_at_rest("inference_requests_total", code="200", model="rows")

    code, out, _ = run("--json")

    document = json.loads(out)
    served = service.metric_at_rest("inference_requests_total", code="200", model="rows") - before
    assert code == 0
    assert document["answers"] > 0
    assert document["answers"] + 1 == served  # one is sent before, to see whether it is answered
    assert document["errors"] == {}
    assert document["p50_ms"] <= document["p90_ms"] <= document["p99_ms"] <= document["p100_ms"]


@pytest.mark.parametrize("model", ["rows", "photos", "sign"])
def test_a_model_of_any_input_is_sent_what_it_takes(run: Run, model: str) -> None:
    code, out, _ = run("--model", model)

    assert code == 0
    assert f"for {model}\n" in out
    assert "errors   none" in out


def test_random_pictures_are_of_the_models_size_and_have_a_black_border() -> None:
    content_type, contents = bench.random_inputs({"kind": "image", "shape": [3, 9, 7]})

    pictures = [np.asarray(Image.open(io.BytesIO(content))) for content in contents]
    assert content_type == "application/octet-stream"
    assert {picture.shape for picture in pictures} == {(9, 7, 3)}
    assert all(not picture[0].any() and not picture[-1].any() and picture.any() for picture in pictures)


def test_files_are_sent_as_they_are(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(pictures.row_png(1))

    code, out, _ = run(tmp_path / "x.png")

    assert code == 0
    assert "1 file\n" in out


def test_any_path_can_be_fetched(run: Run) -> None:
    code, out, _ = run("--path", "/livez")

    assert code == 0
    assert out.startswith("GET http://")


def test_a_rate_is_held(run: Run) -> None:
    code, out, _ = run("--rate", 50, "--json")

    assert code == 0
    assert json.loads(out)["answers"] + json.loads(out)["unsent"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "/nope"], "the path must be one that /docs lists. Given: '/nope'"),
        (["--model", "nope"], "--model must be one that is served: photos, rows, sign. Given: nope"),
        (["--version", "9"], "status 404"),
    ],
)
def test_a_load_of_refusals_is_not_begun(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)

    assert (code, out) == (1, "")
    assert message in err


def test_it_says_when_its_numbers_mean_less_than_they_seem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_load(self: Load, connections: int, *, timeout_seconds: float) -> Report:
        return Report(1.0, [0.001], Counter({"status 429": 2}), 7, 0.97)

    monkeypatch.setattr(Load, "run", run_load)

    code, out, _ = run("--rate", 500)

    assert code == 1
    assert "errors   2 x status 429" in out
    assert "note: this program used 97% of the one core" in out
    assert "note: 7 requests due but never sent: 500/s are too many for 4 connections" in out
