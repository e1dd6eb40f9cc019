"""What a request's head and query say."""

from __future__ import annotations

import math

import pytest

from service.api import request as request_module
from service.api.request import Query, media_type, parse_query, timeout_seconds, whole_number
from service.http.messages import Request
from service.problems import BadRequest


class Client:
    disconnected = False


def request(*, remaining_seconds: float = math.inf, **headers: str) -> Request:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Request("POST", "/predict", given, Client(), remaining_seconds=remaining_seconds)


def parameters(query: Query) -> dict[str, object]:
    return {name: getattr(query, name) for name in Query.__slots__}


def test_the_query_says_what_is_asked_for() -> None:
    query = parse_query(b"model=rows&version=2&top_k=3&probabilities=true&show_input=1&split=true&priority=bulk")

    expected = Query("rows", "2", 3, probabilities=True, show_input=True, split=True, bulk=True)
    assert parameters(query) == parameters(expected)
    assert parameters(parse_query(b"abstain=1&coverage=0.95")) == parameters(Query(abstain=True, coverage=0.95))
    assert parameters(parse_query(b"")) == parameters(Query())


@pytest.mark.parametrize(
    "raw",
    [
        *(b"nope=1", b"top_k=1&top_k=2", b"priority=high", b"show_input=maybe", b"top_k=0", b"abstain=2"),
        *(b"coverage=0.4", b"coverage=1", b"coverage=nan", b"coverage=0_.9", b"coverage="),
    ],
)
def test_a_query_that_is_unknown_doubled_or_malformed_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="Given: "):
        parse_query(raw)


@pytest.mark.parametrize("length", [3, 1000])
def test_a_query_of_any_length_is_parsed(length: int) -> None:
    assert parse_query(b"model=" + b"a" * length).model == "a" * length


def test_the_client_or_the_transport_sets_the_deadline_whichever_is_sooner() -> None:
    assert timeout_seconds(request()) == math.inf
    assert timeout_seconds(request(x_request_timeout_ms="250")) == 0.25
    assert timeout_seconds(request(x_request_timeout_ms="250", remaining_seconds=0.125)) == 0.125
    with pytest.raises(BadRequest, match="x-request-timeout-ms must be a whole number"):
        timeout_seconds(request(x_request_timeout_ms="soon"))


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("image/png", "image/png"),
        ("Image/PNG; charset=binary", "image/png"),
        (" application/json ;x=y", "application/json"),
        ("", ""),
    ],
)
def test_a_media_type_is_read_without_its_parameters(content_type: str, expected: str) -> None:
    assert media_type(content_type) == expected


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("007", 7), ("999999999", 999_999_999)])
def test_a_whole_number_is_read(text: str, expected: int) -> None:
    assert whole_number(text, "top_k") == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "1.0", "1e3", " 1", "many", "٣", "²", "9" * 10, "9" * 10_000])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"top_k must be a whole number of at least 1\. Given: ") as refusal:
        whole_number(text, "top_k")

    assert len(refusal.value.detail) < 120


def test_what_is_remembered_of_queries_is_limited_in_bytes() -> None:
    for number in range(2000):
        parse_query(b"model=" + b"m" * 240 + b"%d" % number)
    before = request_module._parse_again.cache_info()

    parse_query(b"model=" + b"m" * 10_000)

    assert before.currsize * request_module._REMEMBERED_BYTES <= 2**20
    assert request_module._parse_again.cache_info() == before
