"""A load of requests whose answers are known, sent over keep-alive connections and checked one by one."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
import time
from dataclasses import dataclass, field

import orjson

from tests import pictures


def request_of(png: bytes) -> bytes:
    """The bytes of an HTTP request that posts an image."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(png)
    return head + png


REQUESTS = [request_of(pictures.row_png(class_id)) for class_id in range(10)]


@dataclass
class Tally:
    """What became of the requests that were sent."""

    sent: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    lost: int = 0  # connections that ended with a request under way
    slowest: float = 0.0  # seconds
    versions: collections.Counter[int] = field(default_factory=collections.Counter)
    stop: bool = False


async def send_all(
    port: int, total: int, *, connections: int, retry_lost: bool = False, tally: Tally | None = None
) -> Tally:
    """Send `total` requests over `connections` connections, or as many as there are before `tally` is told to stop.

    With `retry_lost`, what a dead connection took is sent again.
    """
    tally = tally or Tally()
    left = itertools.takewhile(lambda _: not tally.stop, range(total))
    await asyncio.gather(*(_send_on(port, left, tally, retry_lost=retry_lost) for _ in range(connections)))
    return tally


async def classes_of(port: int, pngs: list[bytes], *, connections: int) -> list[int]:
    """The class that the service gives to each image, each posted alone, over `connections` connections."""
    classes = [-1] * len(pngs)
    left = iter(enumerate(pngs))

    async def send_on() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, png in left:
            writer.write(request_of(png))
            _, body = await _read_answer(reader)
            classes[number] = orjson.loads(body)["predictions"][0]["class_id"]
        writer.close()

    await asyncio.gather(*(send_on() for _ in range(connections)))
    return classes


async def _send_on(port: int, left: collections.abc.Iterator[int], tally: Tally, *, retry_lost: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in left:
        class_id = number % 10
        tally.sent += 1
        while True:
            started = time.monotonic()
            try:
                writer.write(REQUESTS[class_id])
                status, body = await _read_answer(reader)
                break
            except (OSError, asyncio.IncompleteReadError):
                tally.lost += 1
                writer.close()
                if not retry_lost:
                    return
                await asyncio.sleep(0.05)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tally.slowest = max(tally.slowest, time.monotonic() - started)
        tally.statuses[status] += 1
        if status == 200:
            document = orjson.loads(body)
            tally.versions[document["version"]] += 1
            given = document["predictions"][0].get("class_id")
            if given == class_id:
                tally.right += 1
            else:
                tally.wrong.append(f"sent {class_id}, was told {given}")
    writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    start = head.index(b"content-length: ") + 16
    length = int(head[start : head.index(b"\r", start)])
    return int(head[9:12]), await reader.readexactly(length)


async def misbehave(port: int, seconds: float, seed: int = 0) -> None:
    """Clients that vanish after half a body, send garbage, dribble, or connect and say nothing."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
    while time.monotonic() < until:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        request = rng.choice(REQUESTS)
        match rng.randrange(4):
            case 0:
                writer.write(request[: rng.randrange(len(request))])
            case 1:
                writer.write(rng.randbytes(200))
            case 2:
                for byte in request[:60]:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
            case 3:
                writer.write(request)  # and does not wait for the answer
        await asyncio.sleep(rng.random() * 0.02)
        writer.transport.abort()
    for _, writer in silent:
        writer.close()
