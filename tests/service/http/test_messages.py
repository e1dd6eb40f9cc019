"""What a request is called, and the bytes of an answer."""

from __future__ import annotations

import re

import pytest

from service.http.messages import Request, Response, Writer, problem_response
from service.problems import QueueFull


class Client:
    disconnected = False


def request(**headers: str) -> Request:
    return Request("GET", "/", {name.replace("_", "-").encode(): v.encode() for name, v in headers.items()}, Client())


def test_a_request_keeps_the_id_that_it_came_with() -> None:
    assert request(x_request_id="r-7").id == "r-7"


@pytest.mark.parametrize("given", ["", "a\tb", "é", "a" * 129])
def test_a_request_without_an_id_that_can_be_sent_back_gets_one_of_its_own(given: str) -> None:
    first, second = request(x_request_id=given), request()

    assert first.id == first.id != second.id
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", first.id)


def test_an_answer_has_its_headers_a_date_and_its_length() -> None:
    response = Response(200, b"{}", headers=((b"x-a", b"1"),), shared_headers=((b"x-model", b"m"),))

    head, _, body = Writer().serialise(response, closes=True).partition(b"\r\n\r\n")

    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"HTTP/1.1 200 OK", b"{}")
    assert {b"content-type: application/json", b"x-a: 1", b"x-model: m", b"content-length: 2", b"connection: close"} < {
        *lines
    }
    assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", head)


def test_the_answer_to_head_has_the_length_of_a_body_that_it_leaves_out() -> None:
    answer = Writer().serialise(Response(200, b"body"), head_only=True)

    assert answer.endswith(b"content-length: 4\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_may_have_no_body_has_neither_body_nor_length(status: int) -> None:
    answer = Writer().serialise(Response(status, b"", b""))

    assert answer.endswith(b"\r\n\r\n")
    assert b"content-" not in answer


def test_a_problem_is_said_in_its_own_media_type_with_its_headers() -> None:
    response = problem_response(QueueFull("it must fit. Given: more", retry_after_seconds=3), (b"x-request-id", b"7"))

    assert (response.status, response.media_type) == (429, b"application/problem+json")
    assert response.headers == ((b"x-request-id", b"7"), (b"retry-after", b"3"))
