"""A log line for each request, if asked for: which model answered, with what outcome, and where the time went.

Requests only append to a list. A few times a second lines are made of it, up to the rate that was asked for, and a
thread writes them: a log that nobody reads, or that cannot keep up, loses lines and never delays a request. No line
holds anything of a request's body, its key (but for the key's name) or its answer.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any, NamedTuple

import orjson

from service import logs
from service.counting import counted
from service.logs import Format
from service.telemetry.line_writer import LineWriter
from service.telemetry.metrics.recorder import STAGES, Stages

LOGGER = "service.requests"
OK = "ok"

_MAX_HELD = 20_000  # requests between two flushes; more are left out
_REPORT_SECONDS = 10.0


class RequestLine(NamedTuple):
    """The content of a line; `outcome` is "ok" or the reason that a failure is counted by."""

    ended: float  # Unix time
    request_id: str
    model: str
    version: str
    outcome: str
    status: int
    seconds: float
    stages: Stages | None
    key: str = ""  # the name of the API key
    trace_id: str = ""


class RequestLog:
    """Writes at most `lines_per_second` lines, failures first, and says how many it left out."""

    def __init__(self, lines_per_second: float, log_format: Format, writer: LineWriter) -> None:
        self._rate = lines_per_second
        self._make_line = json_line if log_format == "json" else text_line
        self._writer = writer
        self._held: list[RequestLine] = []
        self._tokens = self._burst = max(1.0, lines_per_second)
        self._filled = time.monotonic()
        self._omitted = 0
        self._reported = time.monotonic()
        self._log_format = log_format

    def add(self, request: RequestLine) -> None:
        self._held.append(request)

    def flush(self) -> int:
        """Write lines for the requests since the last flush, as the rate allows; return how many are left out."""
        held, self._held = self._held, []
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        chosen = choose(held[:_MAX_HELD], int(self._tokens))
        lines = b"".join(map(self._make_line, chosen))
        if lines and self._writer.write(lines):
            self._tokens -= len(chosen)
        else:
            chosen = []
        omitted = len(held) - len(chosen)
        self._omitted += omitted
        if self._omitted and now - self._reported > _REPORT_SECONDS:
            self._report(now)
        return omitted

    def close(self) -> None:
        """Write what is left, and how much was left out."""
        self.flush()
        if self._omitted:
            self._report(time.monotonic())
        self._writer.wait(1.0)

    def _report(self, now: float) -> None:
        message = (
            f"left out {counted(self._omitted, 'request line')}: this process writes at most {self._rate:.3g} a second"
        )
        if self._log_format == "json":
            line = {**_head(time.time(), "WARNING"), "message": message, "omitted": self._omitted}
            written = self._writer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        else:
            written = self._writer.write(f"{_text_head(time.time(), 'WARNING')} {message}\n".encode())
        if written:
            self._omitted, self._reported = 0, now


def choose(requests: list[RequestLine], number: int) -> list[RequestLine]:
    """Choose `number` requests, in order: our failures before the clients', and those before successes."""
    if len(requests) <= number:
        return requests
    ranks: tuple[list[int], ...] = ([], [], [])
    for place, request in enumerate(requests):
        ranks[0 if request.status >= 500 else 1 if request.outcome != OK else 2].append(place)
    chosen: list[int] = []
    for places in ranks:
        room = min(number - len(chosen), len(places))
        chosen += [places[i * len(places) // room] for i in range(room)]  # from all of the time, not its beginning
    return [requests[place] for place in sorted(chosen)]


def json_line(request: RequestLine) -> bytes:
    line = _head(request.ended, "ERROR" if request.status >= 500 else "INFO")
    line |= {
        "message": "request",
        "request_id": request.request_id,
        "model": request.model,
        "version": request.version,
        "outcome": request.outcome,
        "status": request.status,
        "seconds": round(request.seconds, 6),
    }
    line |= {name: text for name, text in (("key", request.key), ("trace_id", request.trace_id)) if text}
    if request.stages:
        line |= {f"{stage}_seconds": round(s, 6) for stage, s in zip(STAGES, request.stages, strict=True)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def text_line(request: RequestLine) -> bytes:
    what = f"{request.model}@{request.version}" if request.model else "-"
    stages = ""
    if request.stages:
        stages = ", ".join(f"{stage} {1e3 * s:.2f}" for stage, s in zip(STAGES, request.stages, strict=True))
        stages = f" ({stages})"
    head = _text_head(request.ended, "ERROR" if request.status >= 500 else "INFO")
    text = f"{request.status} {request.outcome} {what} {1e3 * request.seconds:.2f} ms{stages} {request.request_id}"
    text += f" key={request.key}" * bool(request.key) + f" trace={request.trace_id}" * bool(request.trace_id)
    return f"{head} {text}\n".encode()


def _head(seconds: float, level: str) -> dict[str, Any]:
    return logs.head(seconds, level, multiprocessing.current_process().name, LOGGER)


def _text_head(seconds: float, level: str) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    milliseconds = int(seconds % 1 * 1000)
    return f"{moment},{milliseconds:03d} {level} {multiprocessing.current_process().name} {LOGGER}:"
