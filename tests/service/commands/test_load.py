"""The load generator, against servers that misbehave: what it counts is what happened."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from service.commands.load import Address, Listener, Load, Report


@contextlib.asynccontextmanager
async def serving(answers: Callable[[int], bytes | None]) -> AsyncIterator[Address]:
    """A server that gives `answers(n)` to its nth request; None ends the connection."""
    numbers = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                answer = answers(next(numbers))
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


def load(
    answers: Callable[[int], bytes | None], *, connections: int = 1, seconds: float = 0.2, **options: Any
) -> Report:
    async def run() -> Report:
        async with serving(answers) as address:
            load = Load(address, [address.request("GET", "/")], seconds=seconds, **options)
            return await load.run(connections, timeout_seconds=0.2)

    return asyncio.run(run())


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def refusal(status: int) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["length", "chunks", "nothing"],
)
def test_an_answer_of_any_form_is_read_to_its_end(answer: bytes) -> None:
    report = load(lambda number: answer if number < 50 else None)

    assert len(report.seconds) == 50


def test_a_connection_that_the_server_closes_after_each_answer_is_opened_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    report = load(lambda _: closing)

    assert len(report.seconds) > 1
    assert not report.errors


def test_refusals_and_lost_connections_are_errors_and_no_latencies() -> None:
    answers = {0: GOOD, 1: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 2: None, 3: b"SSH-2.0\r\n\r\n"}

    report = load(
        lambda number: answers.get(number, GOOD if number < 6 else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    )

    assert len(report.seconds) == 3
    assert report.errors["status 503"] == 1
    assert report.errors["IncompleteReadError"] == 1
    assert report.errors["ValueError"] == 1
    assert report.errors["status 500"] >= 1


def test_answers_that_never_come_are_errors_and_do_not_hold_it_up() -> None:
    report = load(lambda number: b"", connections=3)

    assert report.errors == Counter({"no answer in time": 3})
    assert report.seconds == []


def test_with_a_rate_a_stalling_server_is_charged_for_what_was_due_meanwhile() -> None:
    # The first answer takes a good part of the run; over one connection, what was due meanwhile waits behind it.
    def stall(number: int) -> bytes:
        if number == 0:
            time.sleep(0.1)
        return GOOD

    report = load(stall, rate=100, seconds=0.5)

    assert len([seconds for seconds in report.seconds if seconds > 0.02]) >= 5


def test_percentiles_are_latencies_that_were_measured() -> None:
    report = Report(2.0, [float(i) for i in range(1, 101)], Counter(), 0, 0.5)

    assert [report.percentile(p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert report.rate() == 50
    assert math.isnan(Report(1.0, [], Counter(), 0, 0.5).percentile(50))


class Heard(Listener):
    """Remembers what it hears."""

    def __init__(self, most: int = 10**9) -> None:
        self.numbers: list[int] = []
        self.answers: list[tuple[int, int, bytes]] = []
        self.losses: list[int] = []
        self._most = most

    def goes_on(self) -> bool:
        return len(self.answers) < self._most

    def sent(self, number: int) -> None:
        self.numbers.append(number)

    def answered(self, number: int, status: int, body: bytes, seconds: float) -> None:
        assert seconds > 0
        self.answers.append((number, status, body))

    def lost(self, number: int) -> None:
        self.losses.append(number)


def test_a_listener_hears_of_every_request_up_to_the_total() -> None:
    heard = Heard()

    load(lambda number: refusal(503) if number == 1 else GOOD, seconds=math.inf, total=3, listener=heard)

    assert heard.numbers == [0, 1, 2]
    assert heard.answers == [(0, 200, b"ok"), (1, 503, b""), (2, 200, b"ok")]


def test_a_listener_ends_the_load() -> None:
    heard = Heard(most=5)

    load(lambda _: GOOD, seconds=math.inf, listener=heard)

    assert len(heard.answers) == 5


@pytest.mark.parametrize(
    ("after_loss", "sent", "answered"),
    [("next", [0, 1, 2], [0, 2]), ("again", [0, 1, 2], [0, 1, 2]), ("end", [0, 1], [0])],
)
def test_a_lost_connection_sends_the_next_request_or_the_same_or_none(
    after_loss: str, sent: list[int], answered: list[int]
) -> None:
    heard = Heard()

    load(lambda n: None if n == 1 else GOOD, seconds=math.inf, total=3, after_loss=after_loss, listener=heard)

    assert (heard.numbers, [number for number, _, _ in heard.answers]) == (sent, answered)
    assert heard.losses == [1]


@pytest.mark.parametrize("poisson", [False, True])
def test_a_rate_is_kept_at_equal_intervals_or_at_random_ones(poisson: bool) -> None:
    report = load(lambda _: GOOD, connections=50, rate=200, seconds=1.0, poisson=poisson)

    due = len(report.seconds) + report.unsent
    assert due == 200 if not poisson else 130 < due < 270 and due != 200


def test_with_a_rate_no_more_connections_are_opened_than_it_takes() -> None:
    heard = Heard()

    report = load(lambda _: b"", connections=10, rate=20, seconds=0.2, listener=heard)

    assert len(heard.numbers) == 4
    assert report.errors == Counter({"no answer in time": 4})
