"""Two ways to load a server: a closed loop (wrk) and an open one (Poisson arrivals)."""

from __future__ import annotations

import gc
import re
import subprocess
import tempfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from service.commands.load import Address, Listener, Load, fast_runner

_LUA = """
local requests = {}
function init(args)
  for i = 1, COUNT do
    local file = io.open(FOLDER .. "/" .. i, "rb")
    requests[i] = wrk.format("POST", nil, HEADERS, file:read("*all"))
    file:close()
  end
end
local next_request = 0
function request()
  next_request = next_request % COUNT + 1
  return requests[next_request]
end
function done(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), bad))
end
"""

_CONNECTIONS = 16_384  # of an open loop, at most: it must not wait for a free one
_ANSWER_SECONDS = 20.0


class Posts(NamedTuple):
    """The requests of a load: these bodies in turn, all with the same headers."""

    bodies: list[bytes]
    headers: Mapping[str, str]


class Result(NamedTuple):
    """What a client saw; times in seconds."""

    rate: float  # answers per second
    p50: float
    p99: float
    errors: int


class TimedAnswer(NamedTuple):
    """One answer of an open loop."""

    status: int
    seconds: float  # since its request was to be sent


def closed_loop(url: str, posts: Posts, *, connections: int, seconds: float) -> Result:
    """Wrk with one thread: each connection sends its next request when it has its answer."""
    with tempfile.TemporaryDirectory() as folder:
        for number, body in enumerate(posts.bodies, 1):
            (Path(folder) / str(number)).write_bytes(body)
        headers = ", ".join(f'["{name}"] = "{value}"' for name, value in posts.headers.items())
        script = Path(folder) / "load.lua"
        script.write_text(f'FOLDER, COUNT, HEADERS = "{folder}", {len(posts.bodies)}, {{{headers}}}\n{_LUA}')
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if not found:
        raise RuntimeError(f"wrk said:\n{output}")
    requests, micros, p50, p99, bad = map(int, found.groups())
    return Result((requests - bad) / micros * 1e6, p50 / 1e6, p99 / 1e6, bad)


def open_loop(url: str, posts: Posts, *, rate: float, seconds: float) -> Result:
    """Send as `arrivals`; count what is not answered, or with another status than 200, as an error."""
    answers, missing = arrivals(url, posts, rate=rate, seconds=seconds)
    latencies = sorted(answer.seconds for answer in answers)
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    errors = missing + sum(answer.status != HTTPStatus.OK for answer in answers)
    return Result(len(latencies) / seconds, p50, p99, errors)


def arrivals(url: str, posts: Posts, *, rate: float, seconds: float) -> tuple[list[TimedAnswer], int]:
    """Send Poisson arrivals at `rate` requests/s; return the answers, and how many requests got none.

    Latency counts from the intended time of sending, so that no wait is hidden. The generator shares the machine with
    the server; what it adds itself shows in its figures for a server that answers a constant.
    """
    parts = urlsplit(url)
    headers = dict(posts.headers)
    content_type = headers.pop("Content-Type", "application/octet-stream")
    address = Address(f"{parts.scheme}://{parts.netloc}", headers)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    requests = [address.request("POST", path, body, content_type) for body in posts.bodies]
    answers = _Answers()
    load = Load(address, requests, seconds=seconds, rate=rate, poisson=True, listener=answers)
    gc.collect()
    gc.disable()
    try:
        with fast_runner() as runner:
            runner.run(load.run(_CONNECTIONS, timeout_seconds=_ANSWER_SECONDS))
    finally:
        gc.enable()
    return answers.found, answers.requests - len(answers.found)


class _Answers(Listener):
    """Keeps every answer."""

    def __init__(self) -> None:
        self.requests = 0
        self.found: list[TimedAnswer] = []

    def sent(self, number: int) -> None:  # noqa: ARG002 - as in Listener
        self.requests += 1

    def answered(self, number: int, status: int, body: bytes, seconds: float) -> None:  # noqa: ARG002
        self.found.append(TimedAnswer(status, seconds))
