"""The load test: what it counts is what happened."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.__main__ import main
from service.commands import bench
from service.commands.load import Address, Load, Report
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
    assert "1 files\n" in out


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


# Against servers that misbehave


@contextlib.asynccontextmanager
async def serving(answers: Callable[[int], bytes | None]) -> AsyncIterator[Address]:
    """A server that gives `answers(n)` to its nth request; None ends the connection."""
    numbers = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                answer = answers(next(numbers))
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


def load(
    answers: Callable[[int], bytes | None], *, connections: int = 1, rate: float | None = None, seconds: float = 0.2
) -> Report:
    async def run() -> Report:
        async with serving(answers) as address:
            load = Load(address, [address.request("GET", "/")], seconds=seconds, rate=rate)
            return await load.run(connections, timeout_seconds=0.2)

    return asyncio.run(run())


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def refusal(status: int) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["length", "chunks", "nothing"],
)
def test_an_answer_of_any_form_is_read_to_its_end(answer: bytes) -> None:
    report = load(lambda number: answer if number < 50 else None)

    assert len(report.seconds) == 50


def test_a_connection_that_the_server_closes_after_each_answer_is_opened_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    report = load(lambda _: closing)

    assert len(report.seconds) > 1
    assert not report.errors


def test_refusals_and_lost_connections_are_errors_and_no_latencies() -> None:
    answers = {0: GOOD, 1: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 2: None, 3: b"SSH-2.0\r\n\r\n"}

    report = load(
        lambda number: answers.get(number, GOOD if number < 6 else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    )

    assert len(report.seconds) == 3
    assert report.errors["status 503"] == 1
    assert report.errors["IncompleteReadError"] == 1
    assert report.errors["ValueError"] == 1
    assert report.errors["status 500"] >= 1


def test_answers_that_never_come_are_errors_and_do_not_hold_it_up() -> None:
    report = load(lambda number: b"", connections=3)

    assert report.errors == Counter({"no answer in time": 3})
    assert report.seconds == []


def test_with_a_rate_a_stalling_server_is_charged_for_what_was_due_meanwhile() -> None:
    # The first answer takes a good part of the run; over one connection, what was due meanwhile waits behind it.
    def stall(number: int) -> bytes:
        if number == 0:
            time.sleep(0.1)
        return GOOD

    report = load(stall, rate=100, seconds=0.5)

    assert len([seconds for seconds in report.seconds if seconds > 0.02]) >= 5


def test_percentiles_are_latencies_that_were_measured() -> None:
    report = Report(2.0, [float(i) for i in range(1, 101)], Counter(), 0, 0.5)

    assert [report.percentile(p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert report.rate() == 50
    assert math.isnan(Report(1.0, [], Counter(), 0, 0.5).percentile(50))


def test_it_says_when_its_numbers_mean_less_than_they_seem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_load(self: Load, connections: int, *, timeout_seconds: float) -> Report:
        return Report(1.0, [0.001], Counter({"status 429": 2}), 7, 0.97)

    monkeypatch.setattr(Load, "run", run_load)

    code, out, _ = run("--rate", 500)

    assert code == 1
    assert "errors   2 x status 429" in out
    assert "note: this program used 97% of the one core" in out
    assert "note: 7 requests that were due were never sent: 4 connections do not bear 500/s" in out
