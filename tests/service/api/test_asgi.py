"""HTTP as the prediction routes need it, told in ASGI's own messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from service.api import asgi
from service.api.asgi import BodyReader
from service.api.response import Response, problem_response
from service.problems import ClientGone, QueueFull, RequestTimeout, TooLarge


def chunk(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def receiving(*messages: dict[str, object]) -> Callable[[], Awaitable[dict[str, object]]]:
    left = list(messages)

    async def receive() -> dict[str, object]:
        return left.pop(0)

    return receive


def scope(**headers: str) -> dict[str, object]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def read(*messages: dict[str, object], max_bytes: int = 10, **headers: str) -> bytes:
    return asyncio.run(asgi.read_body(scope(**headers), receiving(*messages), max_bytes))


# Bodies


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"0123456789", more=False)],
        [chunk(b"01234", more=True), chunk(b"56789", more=False)],
        [chunk(b"0123456789", more=True), chunk(b"", more=False)],
        [chunk(b"", more=True), {"type": "http.request", "body": b"0123456789"}],
    ],
    ids=["whole", "in two", "with an empty end", "with an empty start"],
)
def test_a_body_of_the_largest_size_is_read_whole(messages: list[dict[str, object]]) -> None:
    assert read(*messages) == b"0123456789"


def test_no_body_is_an_empty_one() -> None:
    assert read({"type": "http.request"}) == b""


def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match=r"must be at most 1,000 bytes\. Given: 1,001"):
        read(max_bytes=1000, content_length="1001")


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"0123456789a", more=False)],
        [chunk(b"0123456789a", more=True)],
        [chunk(b"01234", more=True), chunk(b"56789a", more=True)],
    ],
    ids=["at once", "in its first part", "in its second part"],
)
def test_a_body_that_proves_too_large_is_refused_when_it_does(messages: list[dict[str, object]]) -> None:
    with pytest.raises(TooLarge, match=r"must be at most 10 bytes\. Given: more"):
        read(*messages)


@pytest.mark.parametrize("messages", [[GONE], [chunk(b"half", more=True), GONE]], ids=["at once", "in mid body"])
def test_a_client_that_leaves_is_gone(messages: list[dict[str, object]]) -> None:
    with pytest.raises(ClientGone):
        read(*messages)


# Bodies that take their time


def test_a_body_that_is_late_is_given_up_and_the_task_lives_on() -> None:
    async def story() -> str:
        reader = BodyReader(10, seconds=5)

        async def never() -> dict[str, object]:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def request() -> str:
            with pytest.raises(RequestTimeout, match=r"must come within 5 s\. Given: a slower one"):
                await reader.read(scope(), never, 100.0)
            await asyncio.sleep(0)  # would raise if a cancellation were still on its way
            return f"answered with {asyncio.current_task().cancelling()} cancellations left"  # type: ignore[union-attr]

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        reader.sweep(104.9)
        await asyncio.sleep(0)
        assert not task.done()
        reader.sweep(105.0)
        reader.sweep(105.1)
        return await task

    assert asyncio.run(story()) == "answered with 0 cancellations left"


def test_a_body_that_comes_in_time_is_not_looked_at_again() -> None:
    async def story() -> bytes:
        reader = BodyReader(10, seconds=5)

        body = await reader.read(scope(), receiving(chunk(b"abc", more=False)), 100.0)
        reader.sweep(1000.0)
        await asyncio.sleep(0)
        return body

    assert asyncio.run(story()) == b"abc"


def test_a_reader_refuses_what_is_too_large() -> None:
    async def story() -> None:
        await BodyReader(2, seconds=5).read(scope(), receiving(chunk(b"abc", more=False)), 100.0)

    with pytest.raises(TooLarge):
        asyncio.run(story())


def test_another_cancellation_than_the_readers_is_left_alone() -> None:
    async def story() -> None:
        async def never() -> dict[str, object]:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        task = asyncio.create_task(BodyReader(10, seconds=5).read(scope(), never, 100.0))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story())


# Answers


def sent(answer: Callable[[asgi.Send], Awaitable[None]]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what `answer` sends."""
    messages = []

    async def send(message: asgi.Message) -> None:
        messages.append(message)

    asyncio.run(answer(send))  # type: ignore[arg-type]
    start, body = messages
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], {key.decode(): value.decode() for key, value in start["headers"]}, body["body"]


def test_an_answer_says_its_type_and_length() -> None:
    response = Response(200, b"{}", headers=((b"x-request-id", b"7"),), shared_headers=((b"x-model", b"rows"),))

    status, headers, body = sent(lambda send: asgi.send_response(send, response))

    assert (status, body) == (200, b"{}")
    assert headers == {
        "content-type": "application/json",
        "content-length": "2",
        "x-request-id": "7",
        "x-model": "rows",
    }


def test_a_problem_is_sent_as_problem_details_with_its_own_headers() -> None:
    problem = QueueFull("the queue must have room. Given: none", retry_after_seconds=3)

    response = problem_response(problem, (b"x-request-id", b"7"))
    status, headers, body = sent(lambda send: asgi.send_response(send, response))

    assert status == 429
    assert headers["content-type"] == "application/problem+json"
    assert (headers["retry-after"], headers["x-request-id"]) == ("3", "7")
    assert int(headers["content-length"]) == len(body)
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "the queue must have room. Given: none",
    }


# Heads


def test_a_head_has_what_the_scope_says() -> None:
    headers = scope(content_type="image/png", x_request_id="é")
    head = asgi.head_of({"method": "POST", "path": "/predict", "query_string": b"top_k=2", **headers})

    assert (head.method, head.path, head.raw_query) == ("POST", "/predict", b"top_k=2")
    assert head.header("content-type") == "image/png"
    assert head.header("x-request-id") == "é".encode().decode("latin-1")
    assert head.header("accept") is None
