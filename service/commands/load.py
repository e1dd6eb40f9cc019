"""Drive any HTTP server with requests that are given as bytes, and clock the answers. Knows nothing about models."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import math
import ssl
import time
from collections.abc import Sequence
from itertools import count
from urllib.parse import urlsplit


@dataclasses.dataclass
class Report:
    """What became of a load; `seconds` holds the latency of each answer that was no error, in order of size."""

    elapsed_seconds: float
    seconds: list[float]
    errors: collections.Counter[str]
    unsent: int
    cpu_share: float

    def rate(self) -> float:
        return len(self.seconds) / self.elapsed_seconds

    def percentile(self, percent: float) -> float:
        """The latency that `percent` of the answers did not exceed; NaN if there was none."""
        if not self.seconds:
            return math.nan
        return self.seconds[max(0, math.ceil(len(self.seconds) * percent / 100) - 1)]


class Address:
    """Where a URL points, and how requests to it begin."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        self._headers = {"host": parts.netloc.rpartition("@")[2], **(headers or {})}

    def request(self, method: str, path: str, content: bytes = b"", content_type: str = "") -> bytes:
        """A request as the bytes to be sent."""
        headers = dict(self._headers)
        if method != "GET":
            headers |= {"content-type": content_type, "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {self._path}{path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, ssl=self._ssl)


class Load:
    """`connections` that each send the next request when the last is answered, or (with `rate`) when it is due.

    With a rate, latency counts from the moment that a request was due, so a server that stalls is not spared the
    requests that would have come meanwhile.
    """

    def __init__(self, address: Address, requests: Sequence[bytes], *, seconds: float, rate: float | None) -> None:
        self._address = address
        self._requests = requests
        self._seconds = seconds
        self._rate = rate
        self._numbers = count()
        self._sent = 0
        self._latencies: list[float] = []
        self._errors: collections.Counter[str] = collections.Counter()

    async def run(self, connections: int, *, timeout_seconds: float) -> Report:
        """Send for as long as was said, and wait at most `timeout_seconds` for the answers that are still to come."""
        cpu = time.process_time()
        self._start = time.perf_counter()
        self._end = self._start + self._seconds
        senders = [asyncio.create_task(self._send_on()) for _ in range(connections)]
        _, late = await asyncio.wait(senders, timeout=self._seconds + timeout_seconds)
        for sender in late:
            sender.cancel()
            self._errors["no answer in time"] += 1
        await asyncio.gather(*senders, return_exceptions=True)
        elapsed = time.perf_counter() - self._start
        due = int(self._seconds * self._rate) if self._rate else self._sent
        return Report(
            elapsed_seconds=elapsed,
            seconds=sorted(self._latencies),
            errors=self._errors,
            unsent=max(0, due - self._sent),
            cpu_share=(time.process_time() - cpu) / elapsed,
        )

    async def _send_on(self) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            while (due := await self._next_due()) is not None:
                number, since = due
                try:
                    if reader is None or writer is None:
                        reader, writer = await self._address.connect()
                    writer.write(self._requests[number % len(self._requests)])
                    status, _, keep = await read_answer(reader)
                except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                    self._errors[type(error).__name__] += 1
                    keep = False
                    await asyncio.sleep(0.01)  # a server that is gone must not become a loop without a pause
                else:
                    if status < 400:
                        self._latencies.append(time.perf_counter() - since)
                    else:
                        self._errors[f"status {status}"] += 1
                if not keep:
                    await close(writer)
                    reader = writer = None
        finally:
            await close(writer)

    async def _next_due(self) -> tuple[int, float] | None:
        """The number of the next request and the moment from which its latency counts; None at the end."""
        number = next(self._numbers)
        now = time.perf_counter()
        due = self._start + number / self._rate if self._rate else now
        if now >= self._end or due >= self._end:
            return None
        if due > now:
            await asyncio.sleep(due - now)
        self._sent += 1
        return number, due


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection may be used again.

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
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
