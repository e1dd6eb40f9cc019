"""The two ways to drive a server: a closed loop (wrk) and an open one (Poisson arrivals)."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

_LUA = """
local requests = {}
function init(args)
  for i = 1, COUNT do
    local file = io.open(FOLDER .. "/" .. i, "rb")
    requests[i] = wrk.format("POST", nil, {["Content-Type"] = CONTENT_TYPE}, file:read("*all"))
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


class Result(NamedTuple):
    """What a client saw; times in seconds."""

    rate: float  # answers per second
    p50: float
    p99: float
    errors: int


def closed_loop(url: str, bodies: list[bytes], content_type: str, *, connections: int, seconds: float) -> Result:
    """Wrk with one thread: each connection sends its next request when it has its answer."""
    with tempfile.TemporaryDirectory() as folder:
        for number, body in enumerate(bodies, 1):
            (Path(folder) / str(number)).write_bytes(body)
        constants = f'FOLDER, COUNT, CONTENT_TYPE = "{folder}", {len(bodies)}, "{content_type}"\n'
        script = Path(folder) / "load.lua"
        script.write_text(constants + _LUA)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if not found:
        raise RuntimeError(f"wrk said:\n{output}")
    requests, micros, p50, p99, bad = map(int, found.groups())
    return Result((requests - bad) / micros * 1e6, p50 / 1e6, p99 / 1e6, bad)


def open_loop(url: str, bodies: list[bytes], content_type: str, *, rate: float, seconds: float) -> Result:
    """Poisson arrivals at `rate` requests/s, latency from the intended time of sending, so that no wait is hidden."""
    return uvloop.run(_open_loop(url, bodies, content_type, rate=rate, seconds=seconds))


async def _open_loop(url: str, bodies: list[bytes], content_type: str, *, rate: float, seconds: float) -> Result:
    host, port, path = re.match(r"http://([^:/]+):(\d+)(/.*)", url).groups()  # type: ignore[union-attr]
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: "
    requests = [head.encode() + f"{len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop = asyncio.get_running_loop()
    free: list[_Connection] = []
    latencies: list[float] = []
    errors = 0
    in_flight = 0

    def answered(connection: _Connection, intended: float, good: bool) -> None:
        nonlocal errors, in_flight
        in_flight -= 1
        errors += not good
        latencies.append(loop.time() - intended)
        free.append(connection)

    async def send(intended: float, request: bytes) -> None:
        connection = free.pop() if free else None
        if connection is None:
            _, connection = await loop.create_connection(lambda: _Connection(answered), host, int(port))
        connection.send(request, intended)

    rng = random.Random(0)
    begin = intended = loop.time() + 0.1
    opening: set[asyncio.Task[None]] = set()
    number = 0
    while intended < begin + seconds:
        wait = intended - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        request = requests[number % len(requests)]
        in_flight += 1
        if free:
            free.pop().send(request, intended)
        else:
            task = asyncio.create_task(send(intended, request))
            opening.add(task)
            task.add_done_callback(opening.discard)
        number += 1
        intended += rng.expovariate(rate)
    until = time.monotonic() + 20
    while in_flight and time.monotonic() < until:
        await asyncio.sleep(0.01)
    latencies.sort()
    return Result(
        len(latencies) / seconds,
        latencies[len(latencies) // 2],
        latencies[int(len(latencies) * 0.99)],
        errors + in_flight,
    )


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time; an answer is whole when its length has come."""

    def __init__(self, answered) -> None:  # type: ignore[no-untyped-def]
        self._answered = answered
        self._data = b""
        self._intended = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, intended: float) -> None:
        self._intended = intended
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length and len(body) >= int(length[1]):
            self._data = b""
            self._answered(self, self._intended, head.startswith(b"HTTP/1.1 200"))
