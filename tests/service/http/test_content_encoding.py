"""Compressed bodies are decompressed within the limit of plain ones."""

from __future__ import annotations

import gzip
import zlib

import pytest

from service.http.content_encoding import AT_ONCE_BYTES, decoded_at_once, decoded_body, is_encoded
from service.http.messages import Request
from service.problems import BadRequest, Problem, TooLarge, UnsupportedMediaType


class Client:
    disconnected = False


def request(body: bytes, encoding: str | None, most: int = 1000) -> Request:
    headers = {} if encoding is None else {b"content-encoding": encoding.encode()}
    found = Request("POST", "/", headers, Client())
    found.body, found.max_body_bytes = body, most
    return found


def deflated(body: bytes, window: int) -> bytes:
    compressor = zlib.compressobj(wbits=window)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b"body", mtime=0), "gzip"),
        (gzip.compress(b"body", mtime=0), "GZIP"),
        (deflated(b"body", zlib.MAX_WBITS), "deflate"),
        (deflated(b"body", -zlib.MAX_WBITS), "deflate"),
    ],
)
def test_a_body_is_decoded_as_its_encoding_says(body: bytes, encoding: str | None) -> None:
    asked = request(body, encoding)

    assert is_encoded(asked)
    assert decoded_body(asked) == decoded_at_once(asked) == b"body"


@pytest.mark.parametrize(("body", "encoding"), [(b"body", None), (b"body", "identity"), (b"", "gzip")])
def test_a_body_that_is_as_it_was_or_not_there_is_not_encoded(body: bytes, encoding: str | None) -> None:
    assert not is_encoded(request(body, encoding))


def test_a_large_body_is_not_decoded_at_once() -> None:
    small, large = (gzip.compress(bytes(size), mtime=0) for size in (AT_ONCE_BYTES, AT_ONCE_BYTES + 1))

    assert decoded_at_once(request(small, "gzip", 10**6)) == bytes(AT_ONCE_BYTES)
    assert decoded_at_once(request(large, "gzip", 10**6)) is None
    assert decoded_body(request(large, "gzip", 10**6)) == bytes(AT_ONCE_BYTES + 1)


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (b"body", "gzip", BadRequest),
        (gzip.compress(b"body", mtime=0)[:-1], "gzip", BadRequest),
        (gzip.compress(b"body", mtime=0) + b"more", "gzip", BadRequest),
        (gzip.compress(bytes(10**6), mtime=0), "gzip", TooLarge),
        (b"body", "br", UnsupportedMediaType),
        (b"body", "gzip, gzip", UnsupportedMediaType),
    ],
)
def test_what_is_not_so_encoded_or_too_large_is_refused(body: bytes, encoding: str, problem: type[Problem]) -> None:
    for decode in (decoded_body, decoded_at_once):
        with pytest.raises(problem, match="Given: "):
            decode(request(body, encoding))


def test_an_encoding_that_is_not_taken_is_named() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"must be gzip, deflate or identity\. Given: 'zstd'"):
        decoded_body(request(b"body", "zstd"))
