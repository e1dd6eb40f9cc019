"""Compressed bodies are decompressed within the limit of plain ones."""

from __future__ import annotations

import gzip
import zlib

import pytest

from service.http.content_encoding import decoded_body
from service.http.messages import Request
from service.problems import BadRequest, Problem, TooLarge, UnsupportedMediaType


class Client:
    disconnected = False


def request(body: bytes, encoding: str | None) -> Request:
    headers = {} if encoding is None else {b"content-encoding": encoding.encode()}
    found = Request("POST", b"/", headers, Client())
    found.body, found.max_body_bytes = body, 1000
    return found


def deflated(body: bytes, window: int) -> bytes:
    compressor = zlib.compressobj(wbits=window)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"body", None),
        (b"body", "identity"),
        (gzip.compress(b"body", mtime=0), "gzip"),
        (gzip.compress(b"body", mtime=0), "GZIP"),
        (deflated(b"body", zlib.MAX_WBITS), "deflate"),
        (deflated(b"body", -zlib.MAX_WBITS), "deflate"),
    ],
)
def test_a_body_is_decoded_as_its_encoding_says(body: bytes, encoding: str | None) -> None:
    assert decoded_body(request(body, encoding)) == b"body"


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (b"body", "gzip", BadRequest),
        (gzip.compress(b"body", mtime=0)[:-1], "gzip", BadRequest),
        (gzip.compress(b"body", mtime=0) + b"more", "gzip", BadRequest),
        (gzip.compress(bytes(10**6), mtime=0), "gzip", TooLarge),
        (b"", "deflate", BadRequest),
        (b"body", "br", UnsupportedMediaType),
        (b"body", "gzip, gzip", UnsupportedMediaType),
    ],
)
def test_what_is_not_so_encoded_or_too_large_is_refused(body: bytes, encoding: str, problem: type[Problem]) -> None:
    with pytest.raises(problem, match="Given: "):
        decoded_body(request(body, encoding))


def test_an_encoding_that_is_not_taken_is_named() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"must be gzip, deflate or identity\. Given: 'zstd'"):
        decoded_body(request(b"body", "zstd"))
