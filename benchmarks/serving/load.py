"""The two ways to drive a server: a closed loop (wrk) and an open one (Poisson arrivals)."""

from __future__ import annotations

import gc
import random
import re
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

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

_CONNECTIONS = 256  # of an open loop, to begin with: those that a stall needs should not be opened amid it
_ANSWER_SECONDS = 20.0
_NAP_SECONDS = 0.0002


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


class Answer(NamedTuple):
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
    """As `arrivals`, in short: what is not answered, or with another status than 200, is an error."""
    answers, missing = arrivals(url, posts, rate=rate, seconds=seconds)
    latencies = sorted(answer.seconds for answer in answers)
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    errors = missing + sum(answer.status != HTTPStatus.OK for answer in answers)
    return Result(len(latencies) / seconds, p50, p99, errors)


def arrivals(url: str, posts: Posts, *, rate: float, seconds: float) -> tuple[list[Answer], int]:
    """Poisson arrivals at `rate` requests/s, latency from the intended time of sending, so that no wait is hidden.

    Gives the answers, and how many requests got none.

    It shares the machine with the server, so it must cost little: sockets and epoll alone, about 20 microseconds a
    request where asyncio takes 80. What it adds itself shows in its figures for a server that answers a constant.
    """
    generator = _Generator(url, posts)
    gc.collect()
    gc.disable()
    try:
        return generator.run(rate, seconds)
    finally:
        gc.enable()
        generator.close()


class _Generator:
    def __init__(self, url: str, posts: Posts) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in posts.headers.items())])
        self._requests = [f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body for body in posts.bodies]
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: list[int] = []
        self._intended: dict[int, float] = {}  # of each connection's request under way
        self._received: dict[int, bytes] = {}
        self._answers: list[tuple[bytes, float]] = []
        self._missing = 0
        for _ in range(_CONNECTIONS):
            self._free.append(self._connect())

    def run(self, rate: float, seconds: float) -> tuple[list[Answer], int]:
        rng = random.Random(0)
        due = time.monotonic() + 0.01
        end = due + seconds
        number = 0
        while due < end:
            now = time.monotonic()
            while due <= min(now, end):
                self._send(self._requests[number % len(self._requests)], due)
                number += 1
                due += rng.expovariate(rate)
            if not self._receive(0):
                time.sleep(max(0.0, min(due - time.monotonic(), _NAP_SECONDS)))  # epoll waits in whole milliseconds
        until = time.monotonic() + _ANSWER_SECONDS
        while self._intended and time.monotonic() < until:
            self._receive(0.1)
        return [Answer(int(status), latency) for status, latency in self._answers], self._missing + len(self._intended)

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()

    def _connect(self) -> int:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        return connection.fileno()

    def _send(self, request: bytes, intended: float) -> None:
        place = self._free.pop() if self._free else self._connect()
        self._intended[place] = intended
        self._sockets[place].sendall(request)

    def _receive(self, seconds: float) -> bool:
        """Take the answers that have come; whether there was any."""
        ready = self._epoll.poll(seconds)
        for place, _ in ready:
            data = self._received.pop(place, b"") + self._sockets[place].recv(65536)
            if not data:
                self._lose(place)
            elif _is_whole(data):
                self._answers.append((data[9:12], time.monotonic() - self._intended.pop(place)))
                self._free.append(place)
            else:
                self._received[place] = data
        return bool(ready)

    def _lose(self, place: int) -> None:
        self._epoll.unregister(place)
        self._sockets.pop(place).close()
        self._missing += self._intended.pop(place, None) is not None
        if place in self._free:
            self._free.remove(place)


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
