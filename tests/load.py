"""A load of requests whose answers are known, and clients that misbehave."""

from __future__ import annotations

import asyncio
import collections
import math
import random
import time
from dataclasses import dataclass, field

import orjson

from service.commands.load import Address, Listener, Load
from tests import pictures


def request_of(png: bytes, api_key: str = "") -> bytes:
    """Return the bytes of an HTTP request that posts an image."""
    headers = {"x-api-key": api_key} if api_key else {}
    return Address("http://x", headers).request("POST", "/predict", png, "image/png")


REQUESTS = [request_of(pictures.row_png(class_id)) for class_id in range(10)]


@dataclass
class Tally(Listener):
    """What became of the requests that were sent, each answer checked; the load ends when it is told to `stop`."""

    total: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    losses: int = 0  # connections that ended with a request under way
    slowest: float = 0.0  # seconds
    versions: collections.Counter[int] = field(default_factory=collections.Counter)
    stop: bool = False

    def goes_on(self) -> bool:
        return not self.stop

    def sent(self, number: int) -> None:
        self.total = max(self.total, number + 1)

    def lost(self, number: int) -> None:
        self.losses += 1

    def answered(self, number: int, status: int, body: bytes, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        self.statuses[status] += 1
        if status != 200:
            return
        document = orjson.loads(body)
        self.versions[document["version"]] += 1
        given = document["predictions"][0].get("class_id")
        if given == number % 10:
            self.right += 1
        else:
            self.wrong.append(f"sent {number % 10}, was told {given}")


async def send_all(
    port: int,
    total: float,
    *,
    connections: int,
    retry_lost: bool = False,
    tally: Tally | None = None,
    api_key: str = "",
) -> Tally:
    """Send `total` requests over `connections` connections, or as many as there are before `tally` is told to stop.

    With `retry_lost`, what a dead connection took is sent again; otherwise a dead connection stays dead.
    """
    tally = tally or Tally()
    address = Address(f"http://127.0.0.1:{port}")
    requests = [request_of(pictures.row_png(class_id), api_key) for class_id in range(10)] if api_key else REQUESTS
    load = Load(address, requests, total=total, after_loss="again" if retry_lost else "end", listener=tally)
    await load.run(connections, timeout_seconds=math.inf)
    return tally


class _Classes(Listener):
    """The class in each answer."""

    def __init__(self, number: int) -> None:
        self.classes = [-1] * number

    def answered(self, number: int, status: int, body: bytes, seconds: float) -> None:
        self.classes[number] = orjson.loads(body)["predictions"][0]["class_id"]


async def classes_of(port: int, pngs: list[bytes], *, connections: int) -> list[int]:
    """Return the class that the service gives to each image, each posted alone, over `connections` connections."""
    found = _Classes(len(pngs))
    requests = [request_of(png) for png in pngs]
    load = Load(Address(f"http://127.0.0.1:{port}"), requests, total=len(pngs), listener=found)
    await load.run(connections, timeout_seconds=math.inf)
    return found.classes


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
