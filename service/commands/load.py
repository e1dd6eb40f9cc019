"""A load generator for any HTTP server: sends requests given as bytes and times the answers. Knows nothing of models.

The bench command, the benchmarks' open loop and the tests' checked loads all use it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import importlib
import importlib.util
import math
import random
import ssl
import time
from collections.abc import Sequence
from itertools import count
from typing import Literal
from urllib.parse import urlsplit


@dataclasses.dataclass
class Report:
    """The outcome of a load; `seconds` holds the latency of each answer that was no error, sorted."""

    elapsed_seconds: float
    seconds: list[float]
    errors: collections.Counter[str]
    unsent: int
    cpu_share: float

    def rate(self) -> float:
        """Return the good answers a second."""
        return len(self.seconds) / self.elapsed_seconds

    def percentile(self, percent: float) -> float:
        """Return the latency that `percent` of the answers did not exceed; NaN if there was none."""
        if not self.seconds:
            return math.nan
        return self.seconds[max(0, math.ceil(len(self.seconds) * percent / 100) - 1)]


class Address:
    """The address that a URL points to, and the beginning of requests to it."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        self._headers = {"host": parts.netloc.rpartition("@")[2], **(headers or {})}

    def request(self, method: str, path: str, content: bytes = b"", content_type: str = "") -> bytes:
        """Return a request as the bytes to be sent."""
        headers = dict(self._headers)
        if method != "GET":
            headers |= {"content-type": content_type, "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {self._path}{path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection(self.host, self.port, ssl=self._ssl)


class _Due:
    """A request by its number, and the moment since which its latency counts."""

    __slots__ = ("again", "number", "since")

    def __init__(self, number: int, since: float) -> None:
        self.number = number
        self.since = since
        self.again = False

    def once_more(self) -> _Due:
        """Return the same, to be sent again."""
        self.again = True
        return self


class Listener:
    """Hears what becomes of each request; what it does not override it ignores."""

    def goes_on(self) -> bool:
        """Return whether more requests are to be sent."""
        return True

    def sent(self, number: int) -> None:
        """Hear that request `number`, counted from 0, is about to be sent for the first time."""

    def answered(self, number: int, status: int, body: bytes, seconds: float) -> None:
        """Hear that request `number` was answered, `seconds` after it was due."""

    def lost(self, number: int) -> None:
        """Hear that the connection ended with request `number` under way, or could not be opened for it."""


AfterLoss = Literal["next", "again", "end"]
"""What a connection does that was lost: send the next request, the same again, or nothing more."""


class Load:
    """Connections that each send the next request when the last is answered, or (with `rate`) when it is due.

    Requests come from `requests` in turn, for `seconds` or until `total` were sent. With a rate, latency counts from
    the moment that a request was due, so a server that stalls is not spared the requests that would have come
    meanwhile; they are due at equal intervals or, if `poisson`, at random ones, as with independent clients.
    """

    def __init__(
        self,
        address: Address,
        requests: Sequence[bytes],
        *,
        seconds: float = math.inf,
        total: float = math.inf,
        rate: float | None = None,
        poisson: bool = False,
        after_loss: AfterLoss = "next",
        listener: Listener | None = None,
    ) -> None:
        self._address = address
        self._requests = requests
        self._seconds = seconds
        self._total = total
        self._rate = rate
        self._poisson = poisson
        self._after_loss = after_loss
        self._listener = listener or Listener()
        self._numbers = count()
        self._sent = self._due = 0
        self._latencies: list[float] = []
        self._errors: collections.Counter[str] = collections.Counter()
        self._senders: list[asyncio.Task[None]] = []
        self._backlog: collections.deque[_Due] = collections.deque()  # due, and no connection was free
        self._all_due = False
        self._idle: list[asyncio.Future[_Due | None]] = []  # the last to become idle is taken first

    async def run(self, connections: int, *, timeout_seconds: float) -> Report:
        """Send over at most so many connections, and wait `timeout_seconds` for the answers that are still to come."""
        cpu = time.process_time()
        self._start = time.perf_counter()
        self._end = self._start + self._seconds
        if self._rate:
            await self._send_when_due(connections, self._rate)
        else:
            self._senders = [asyncio.create_task(self._send_on(self._next())) for _ in range(connections)]
        left = self._end + timeout_seconds - time.perf_counter()
        if self._senders:
            _, late = await asyncio.wait(self._senders, timeout=None if left == math.inf else left)
            for sender in late:
                sender.cancel()
                self._errors["no answer in time"] += 1
            await asyncio.gather(*self._senders, return_exceptions=True)
        elapsed = time.perf_counter() - self._start
        return Report(
            elapsed_seconds=elapsed,
            seconds=sorted(self._latencies),
            errors=self._errors,
            unsent=max(0, self._due - self._sent),
            cpu_share=(time.process_time() - cpu) / elapsed,
        )

    async def _send_when_due(self, connections: int, rate: float) -> None:
        """Give each request, when it is due, to a connection that is idle or new, else to the backlog."""
        chance = random.Random(0)  # noqa: S311 - no secret
        since = self._start
        for number in self._numbers:
            if since >= self._end or number >= self._total or not self._listener.goes_on():
                break
            if (wait := since - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._due += 1
            due = _Due(number, since)
            if self._idle:
                self._idle.pop().set_result(due)
            elif len(self._senders) < connections:
                self._senders.append(asyncio.create_task(self._send_on(due)))
            else:
                self._backlog.append(due)
            since = since + chance.expovariate(rate) if self._poisson else self._start + (number + 1) / rate
        self._all_due = True
        for idle in self._idle:
            idle.set_result(None)
        self._idle.clear()

    async def _send_on(self, due: _Due | None) -> None:
        """Send over one connection, which is opened again after each loss."""
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            while due is not None:
                number, since = due.number, due.since
                if not due.again:
                    self._sent += 1
                    self._listener.sent(number)
                lost = False
                try:
                    if reader is None or writer is None:
                        reader, writer = await self._address.connect()
                    writer.write(self._requests[number % len(self._requests)])
                    status, body, keep = await read_answer(reader)
                except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                    self._errors[type(error).__name__] += 1
                    self._listener.lost(number)
                    lost, keep = True, False
                    await asyncio.sleep(0.01)  # a server that is gone must not become a loop without a pause
                else:
                    self._record(number, status, body, time.perf_counter() - since)
                if not keep:
                    await close(writer)
                    reader = writer = None
                if lost and self._after_loss == "end":
                    return
                again = lost and self._after_loss == "again" and self._listener.goes_on()
                due = due.once_more() if again else await self._next_due()
        finally:
            await close(writer)

    def _record(self, number: int, status: int, body: bytes, seconds: float) -> None:
        if status < 400:
            self._latencies.append(seconds)
        else:
            self._errors[f"status {status}"] += 1
        self._listener.answered(number, status, body, seconds)

    async def _next_due(self) -> _Due | None:
        """Return the next request for a connection that has become idle; None at the end."""
        if not self._rate:
            return self._next()
        if time.perf_counter() >= self._end:
            return None
        if self._backlog:
            return self._backlog.popleft()
        if self._all_due:
            return None
        idle: asyncio.Future[_Due | None] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        return await idle

    def _next(self) -> _Due | None:
        """Return the next request, which is due now; None at the end."""
        now = time.perf_counter()
        if now >= self._end or not self._listener.goes_on():
            return None
        number = next(self._numbers)
        return _Due(number, now) if number < self._total else None


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the connection may be used again.

    Raises:
        EOFError: the connection ended before the answer.
        ValueError: it is not HTTP.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:-2])
    keep = b"close" not in fields.get(b"connection", b"") and not head.startswith(b"http/1.0")
    if b"content-length" in fields:
        return status, await reader.readexactly(int(fields[b"content-length"])), keep
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return status, await _read_chunks(reader), keep
    if status in (204, 304):
        return status, b"", keep
    return status, await reader.read(), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():  # trailers
        pass
    return b"".join(chunks)


async def close(writer: asyncio.StreamWriter | None) -> None:
    """Close a connection, if there is one."""
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def fast_runner() -> asyncio.Runner:
    """Return a runner with the faster event loop if it is installed: the generator must not be what is measured."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop)
