"""Two ways to load a server: a closed loop and an open one (Poisson arrivals). Knows nothing of contestants."""

from __future__ import annotations

import gc
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from service.commands.load import Address, Listener, Load, fast_runner

_SCRIPT = Path(__file__).with_name("load.lua")
_CONNECTIONS = 512  # of an open loop with wrk
_OUTSTANDING = 16_384  # of `arrivals`, at most: it must not wait for a free connection
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


class Opened(NamedTuple):
    """An open loop's result; seconds after its arrival by which 99 % of the requests were sent."""

    result: Result
    late_p99: float


def closed_loop(url: str, posts: Posts, *, connections: int, seconds: float, distinct: bool = True) -> Result:
    """Run wrk with one thread: each connection sends its next request when it has its answer.

    Every request has an X-Request-ID of its own, as clients that trace send; `distinct=False` sends the same in all.
    """
    return _wrk(url, posts, connections=connections, seconds=seconds, distinct=distinct).result


def open_loop(url: str, posts: Posts, *, rate: float, seconds: float) -> Opened:
    """Run wrk with one thread: requests arrive at random (Poisson) at `rate` a second, whether or not others wait.

    Latency counts from when a request was really sent; `late_p99` shows when that was not its arrival, because all 512
    connections were busy or wrk had no CPU. Arrivals within one millisecond are sent together, the timer's resolution.
    """
    return _wrk(url, posts, connections=_CONNECTIONS, seconds=seconds, rate=rate)


def _wrk(url: str, posts: Posts, *, connections: int, seconds: float, distinct: bool = True, rate: float = 0) -> Opened:
    with tempfile.TemporaryDirectory() as folder:
        for number, body in enumerate(posts.bodies, 1):
            head, tail = _around_id(url, posts.headers, body)
            (Path(folder) / f"{number}.head").write_bytes(head)
            (Path(folder) / f"{number}.tail").write_bytes(tail)
        options = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(_SCRIPT)]
        arguments = [folder, str(len(posts.bodies)), str(int(distinct)), str(rate)]
        command = ["wrk", *options, url, "--", *arguments]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if not found:
        raise RuntimeError(f"wrk said:\n{output}")
    requests, micros, p50, p99, bad, late = map(int, found.groups())
    return Opened(Result((requests - bad) / micros * 1e6, p50 / 1e6, p99 / 1e6, bad), late / 1e3)


def _around_id(url: str, headers: Mapping[str, str], body: bytes) -> tuple[bytes, bytes]:
    """Return a request's bytes before and after the value of its X-Request-ID."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nX-Request-ID: "
    own = {**headers, "Content-Length": str(len(body))}
    tail = "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in own.items()) + "\r\n"
    return head.encode(), tail.encode() + body


def arrivals(url: str, posts: Posts, *, rate: float, seconds: float) -> tuple[list[TimedAnswer], int]:
    """Send Poisson arrivals at `rate` requests/s; return the answers, and how many requests got none.

    Unlike `open_loop` it tells the status of every answer, and counts latency from the intended time of sending. It is
    written in Python, takes a core itself at 10,000 requests/s, and so suits models that take longer than it does.
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
            runner.run(load.run(_OUTSTANDING, timeout_seconds=_ANSWER_SECONDS))
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
