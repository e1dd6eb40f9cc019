"""A line for each request: what it says, which are written when not all may be, and that nobody waits for a reader."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import orjson
import pytest

from service.telemetry.line_writer import LineWriter
from service.telemetry.request_log import RequestLine, RequestLog, choose

STAGES = (0.0001, 0.0002, 0.001, 0.0005, 0.00005)


def request(status: int = 200, name: str = "a") -> RequestLine:
    if status == 200:
        return RequestLine(1763700000.25, name, "rows", "3", "ok", 200, 0.00185, STAGES)
    return RequestLine(1763700000.25, name, "", "", "queue_full" if status == 429 else "internal", status, 0.001, None)


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def lines(self) -> list[bytes]:
        """What has come by now, whole lines."""
        received = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.reader, 1 << 16):
                received += data
        assert not received or received.endswith(b"\n")
        return received.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    os.close(opened.reader)


def written(pipe: Pipe, log: RequestLog) -> list[bytes]:
    log.close()
    return pipe.lines()


def test_a_json_line_says_what_came_of_a_request_and_where_its_time_went(pipe: Pipe) -> None:
    log = RequestLog(10, "json", LineWriter(pipe.writer))
    log.add(request(name="abc"))

    (line,) = written(pipe, log)

    assert orjson.loads(line) == {
        "time": "2025-11-21T04:40:00.250Z",
        "level": "info",
        "process": "MainProcess",
        "logger": "service.requests",
        "message": "request",
        "request_id": "abc",
        "model": "rows",
        "version": "3",
        "outcome": "ok",
        "status": 200,
        "seconds": 0.00185,
        "read_seconds": 0.0001,
        "decode_seconds": 0.0002,
        "queue_seconds": 0.001,
        "compute_seconds": 0.0005,
        "encode_seconds": 0.00005,
    }


def test_a_text_line_says_the_same(pipe: Pipe) -> None:
    log = RequestLog(10, "text", LineWriter(pipe.writer))
    log.add(request(name="abc"))
    log.add(request(500, name="def"))

    fine, failed = written(pipe, log)

    stages = b"(read 0.10, decode 0.20, queue 1.00, compute 0.50, encode 0.05)"
    assert fine.endswith(b"INFO MainProcess service.requests: 200 ok rows@3 1.85 ms " + stages + b" abc")
    assert failed.endswith(b"ERROR MainProcess service.requests: 500 internal - 1.00 ms def")


def test_our_failures_are_written_before_the_clients_and_those_before_what_went_well() -> None:
    requests = [request(name=f"ok{i}") for i in range(50)]
    requests[10:10] = [request(500, "bug")]
    requests[30:30] = [request(429, "full1"), request(429, "full2")]

    assert [r.request_id for r in choose(requests, 1)] == ["bug"]
    assert [r.request_id for r in choose(requests, 3)] == ["bug", "full1", "full2"]
    assert choose(requests, 100) == requests
    assert choose(requests, 0) == []
    several = [r.request_id for r in choose(requests, 13)]
    assert several[0] == "ok0"
    assert int(several[-1].removeprefix("ok")) >= 40  # from all of the time


def test_no_more_lines_are_written_than_a_second_may_have_and_the_rest_is_counted(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    log = RequestLog(4, "json", LineWriter(pipe.writer))
    omitted = []
    for _ in range(8):  # two seconds, ten requests in each quarter
        for _ in range(10):
            log.add(request())
        omitted.append(log.flush())
        clock[0] += 0.25
    monkeypatch.undo()

    lines = [orjson.loads(line) for line in written(pipe, log)]

    assert omitted == [6, *[9] * 7]
    assert [line["message"] for line in lines[:-1]] == ["request"] * 11
    assert lines[-1]["message"] == "left out 69 request lines: this process writes at most 4 a second"
    assert lines[-1]["omitted"] == 69


def test_a_pipe_that_nobody_reads_costs_lines_and_never_a_request() -> None:
    pipe = Pipe()
    log = RequestLog(1e6, "json", LineWriter(pipe.writer))
    omitted = 0

    for _ in range(100):
        for number in range(200):
            log.add(request(name=f"{number:064d}"))
        omitted += log.flush()

    assert 0 < omitted < 20_000
    lines = pipe.lines()
    assert all(orjson.loads(line)["outcome"] == "ok" for line in lines)
    os.close(pipe.reader)  # what is still to be written is lost, and nobody hears of it


def test_lines_of_two_processes_on_one_pipe_do_not_mix() -> None:
    pipe = Pipe()
    logs = [RequestLog(1e6, "json", LineWriter(pipe.writer)) for _ in range(2)]
    for log in logs:
        for number in range(2000):
            log.add(request(name=f"{number:0100d}"))
        log.flush()

    lines: list[bytes] = []
    until = time.monotonic() + 30
    while len(lines) < 4000 and time.monotonic() < until:
        lines += pipe.lines()

    assert len([orjson.loads(line) for line in lines]) == 4000
    os.close(pipe.reader)
