"""When a client asks again: the waits grow, are spread, heed Retry-After and come to an end."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import errno
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, Client, ClientError, NoAnswer, Refused, Retries, TimedOut, Unavailable
from service.client.retries import retry_after_seconds

GOOD = {"model": "rows", "version": 1, "predictions": [{"class_id": 7, "label": "7", "probability": 0.9}]}

Step = httpx.Response | Exception | int
"""What becomes of a request; a number is a refusal with that status."""


class Script:
    """A service that gives the next of `steps` to each request, and counts."""

    def __init__(self, *steps: Step) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        return problem(step) if isinstance(step, int) else step


def problem(status: int, detail: str = "the queue must have room. Given: a full one", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail, "status": status}, headers=headers)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that a client would have made."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


def ask(script: Script, **options: Any) -> int | None:
    with Client("http://service", transport=httpx.MockTransport(script), **options) as client:
        return client.predict(b"png").class_id


def ask_asynchronously(script: Script, **options: Any) -> int | None:
    async def ask() -> int | None:
        async with AsyncClient("http://service", transport=httpx.MockTransport(script), **options) as client:
            return (await client.predict(b"png")).class_id

    return asyncio.run(ask())


Ask = Callable[..., int]
both = pytest.mark.parametrize("ask", [ask, ask_asynchronously])


@both
@pytest.mark.parametrize(
    "failure",
    [429, 503, httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.ConnectTimeout("late")],
    ids=repr,
)
def test_what_may_pass_is_asked_again(ask: Ask, failure: Step, waits: list[float]) -> None:
    script = Script(failure, failure, httpx.Response(200, json=GOOD))

    class_id = ask(script)

    assert class_id == 7
    assert len(script.requests) == 3
    assert 0 < waits[0] < waits[1]


@both
def test_the_service_is_not_asked_again_before_the_moment_that_it_names(ask: Ask, waits: list[float]) -> None:
    ask(Script(problem(429, **{"retry-after": "7"}), httpx.Response(200, json=GOOD)))

    assert len(waits) == 1
    assert 7 < waits[0] < 7.2


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422])
def test_another_refusal_is_final(ask: Ask, status: int, waits: list[float]) -> None:
    script = Script(problem(status, **{"retry-after": "1"}))

    with pytest.raises(Refused):
        ask(script)

    assert len(script.requests) == 1
    assert waits == []


@both
@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_bug_and_a_passed_deadline_are_final(ask: Ask, status: int, waits: list[float]) -> None:
    script = Script(status)

    with pytest.raises(ClientError):
        ask(script)

    assert len(script.requests) == 1
    assert waits == []


@both
def test_a_timeout_is_final_since_the_service_may_still_compute(ask: Ask, waits: list[float]) -> None:
    script = Script(httpx.ReadTimeout("late"))

    with pytest.raises(TimedOut, match=r"http://service must answer in time. Given: no answer after"):
        ask(script)

    assert len(script.requests) == 1
    assert waits == []


@both
def test_the_number_of_tries_is_bounded(ask: Ask, waits: list[float]) -> None:
    script = Script(*[503] * 4)

    with pytest.raises(Unavailable, match="the queue must have room"):
        ask(script, retries=Retries(attempts=4))

    assert len(waits) == 3


@both
def test_connection_errors_end_with_what_was_tried(ask: Ask, waits: list[float]) -> None:
    script = Script(*[httpx.ConnectError("Connection refused")] * 3)

    with pytest.raises(NoAnswer, match=r"http://service must answer. Given: Connection refused, after 3 tries in "):
        ask(script, retries=Retries(attempts=3))

    assert len(waits) == 2


def not_trusted(_: httpx.Request) -> httpx.Response:
    try:
        raise ssl.SSLError(1, "certificate verify failed")
    except ssl.SSLError as error:
        raise httpx.ConnectError("certificate verify failed") from error


def not_gzip(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))


@pytest.mark.parametrize("answer", [not_trusted, not_gzip])
def test_what_would_happen_again_is_not_tried_again(
    answer: Callable[[httpx.Request], httpx.Response], waits: list[float]
) -> None:
    with (
        Client("http://service", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(NoAnswer, match=r"http://service must answer\. Given: .*, after one try"),
    ):
        client.models()

    assert waits == []


@both
def test_an_outage_is_told_before_each_wait_and_what_is_ordinary_is_not(ask: Ask, waits: list[float]) -> None:
    said: list[str] = []
    script = Script(httpx.ConnectError("refused"), 503, 429, httpx.Response(200, json=GOOD))

    ask(script, retries=Retries(on_outage=said.append))

    assert len(waits) == 3
    assert said == [
        "http://service must answer. Given: refused",
        "http://service must be ready. Given: the queue must have room. Given: a full one",
    ]


def test_a_refused_connection_is_told_in_the_systems_words_by_both_clients() -> None:
    async def ask() -> None:
        async with AsyncClient("http://me:secret@127.0.0.1:1", retries=Retries(attempts=1)) as client:
            await client.models()

    expected = rf"^http://127\.0\.0\.1:1 must answer\. Given: {os.strerror(errno.ECONNREFUSED)}, after one try$"
    with pytest.raises(NoAnswer, match=expected):
        asyncio.run(ask())
    with (
        Client("http://me:secret@127.0.0.1:1", retries=Retries(attempts=1)) as client,
        pytest.raises(NoAnswer, match=expected),
    ):
        client.models()


@both
def test_a_wait_beyond_the_total_time_is_not_begun(ask: Ask, waits: list[float]) -> None:
    script = Script(problem(503, **{"retry-after": "3600"}))

    with pytest.raises(Unavailable):
        ask(script, retries=Retries(total_seconds=60))

    assert waits == []


def test_waits_double_up_to_the_longest_and_are_spread() -> None:
    retries = Retries(attempts=100, first_wait_seconds=1, longest_wait_seconds=8)

    waits = [[retries.wait_seconds(attempt, 0) for _ in range(50)] for attempt in range(1, 7)]

    for longest, spread in zip([1, 2, 4, 8, 8, 8], waits, strict=True):
        assert all(longest / 2 <= wait <= longest for wait in spread)  # type: ignore[operator]
        assert len(set(spread)) > 40


def test_retry_after_may_be_a_date() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)

    assert 80 < retry_after_seconds(email.utils.format_datetime(soon, usegmt=True)) <= 90
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "1.5e"])
def test_a_retry_after_that_means_nothing_is_none(header: str | None) -> None:
    assert retry_after_seconds(header) == 0
