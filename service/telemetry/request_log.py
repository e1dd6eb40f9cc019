"""A line for each request, on request: which model answered, what came of it, and where the time went.

Requests only append to a list. Lines are made of it a few times a second, no more than were asked for, and written by
a thread: a log that nobody reads, or that cannot keep up, costs lines and never a request. No line holds anything of a
request's body, its keys or what was said to the client.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from typing import Any, NamedTuple

import orjson

from service import logs
from service.logs import Format
from service.telemetry.metrics.recorder import STAGES, Stages

LOGGER = "service.requests"
OK = "ok"

_MAX_HELD = 20_000  # requests between two flushes; what is beyond is left out
_MAX_UNWRITTEN_BYTES = 1 << 20
_WRITE_BYTES = 4096  # a pipe takes so much in one piece, so that lines of several processes do not mix
_REPORT_SECONDS = 10.0


class Request(NamedTuple):
    """What a line says; `outcome` is "ok" or what a failure is counted as."""

    ended: float  # Unix time
    request_id: str
    model: str
    version: str
    outcome: str
    status: int
    seconds: float
    stages: Stages | None


class LineWriter:
    """Writes to a file descriptor on a thread, which starts with the first line."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._unwritten = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> bool:
        """Write whole lines, by and by; False if too much waits already."""
        with self._lock:
            if self._unwritten + len(data) > _MAX_UNWRITTEN_BYTES:
                return False
            self._unwritten += len(data)
        if self._thread is None:
            # A daemon, since it may hang on a full pipe for ever, and the process must end all the same.
            self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
            self._thread.start()
        self._waiting.put(data)
        return True

    def wait(self, seconds: float) -> None:
        """Until all is written, or `seconds` have passed."""
        until = time.monotonic() + seconds
        while self._unwritten and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            data = self._waiting.get()
            try:
                for piece in _pieces(data):
                    _write_all(self._descriptor, piece)
            except OSError as error:  # the other end is gone
                logging.getLogger(__name__).debug("request lines are lost: %s", error)
            with self._lock:
                self._unwritten -= len(data)


class RequestLog:
    """At most `lines_per_second` lines, failures first; what is left out is counted and said."""

    def __init__(self, lines_per_second: float, log_format: Format, writer: LineWriter) -> None:
        self._rate = lines_per_second
        self._make_line = json_line if log_format == "json" else text_line
        self._writer = writer
        self._held: list[Request] = []
        self._tokens = self._burst = max(1.0, lines_per_second)
        self._filled = time.monotonic()
        self._omitted = 0
        self._reported = time.monotonic()
        self._log_format = log_format

    def add(self, request: Request) -> None:
        self._held.append(request)

    def flush(self) -> int:
        """Write what may be written of the requests since the last flush; gives how many are left out."""
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
        message = f"left out {self._omitted} request line(s): at most {self._rate:g} a second are written"
        if self._log_format == "json":
            line = {**_head(time.time(), "WARNING"), "message": message, "omitted": self._omitted}
            written = self._writer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        else:
            written = self._writer.write(f"{_text_head(time.time(), 'WARNING')} {message}\n".encode())
        if written:
            self._omitted, self._reported = 0, now


def choose(requests: list[Request], number: int) -> list[Request]:
    """`number` of the requests in their order: our failures before the clients', those before what went well."""
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


def json_line(request: Request) -> bytes:
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
    if request.stages:
        line |= {f"{stage}_seconds": round(s, 6) for stage, s in zip(STAGES, request.stages, strict=True)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def text_line(request: Request) -> bytes:
    what = f"{request.model}@{request.version}" if request.model else "-"
    stages = ""
    if request.stages:
        stages = ", ".join(f"{stage} {1e3 * s:.2f}" for stage, s in zip(STAGES, request.stages, strict=True))
        stages = f" ({stages})"
    head = _text_head(request.ended, "ERROR" if request.status >= 500 else "INFO")
    text = f"{request.status} {request.outcome} {what} {1e3 * request.seconds:.2f} ms{stages} {request.request_id}"
    return f"{head} {text}\n".encode()


def _head(seconds: float, level: str) -> dict[str, Any]:
    return logs.head(seconds, level, multiprocessing.current_process().name, LOGGER)


def _text_head(seconds: float, level: str) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    milliseconds = int(seconds % 1 * 1000)
    return f"{moment},{milliseconds:03d} {level} {multiprocessing.current_process().name} {LOGGER}:"


def _pieces(data: bytes) -> list[bytes]:
    """`data` cut at ends of lines into pieces that a pipe takes whole."""
    pieces = []
    start = 0
    while len(data) - start > _WRITE_BYTES:
        end = data.rfind(b"\n", start, start + _WRITE_BYTES) + 1 or data.find(b"\n", start) + 1 or len(data)
        pieces.append(data[start:end])
        start = end
    return [*pieces, data[start:]]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
