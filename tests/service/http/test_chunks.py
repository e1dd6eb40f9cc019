"""Chunked bodies are decoded the same however they are split; what is not strictly one is refused."""

from __future__ import annotations

import pytest

from service.http.chunks import ChunkDecoder
from service.problems import BadRequest, HeadTooLarge, Problem, TooLarge


def decode(stream: bytes, step: int, *, max_bytes: int = 1000, max_trailer_bytes: int = 1000) -> tuple[bytes, bytes]:
    """Give the body, and what is left behind it."""
    decoder = ChunkDecoder(max_bytes=max_bytes, max_trailer_bytes=max_trailer_bytes)
    rest = b""
    for start in range(0, len(stream), step):
        rest, has_ended = decoder.feed(rest + stream[start : start + step])
        if has_ended:
            return bytes(decoder.body), rest + stream[start + step :]
    raise EOFError


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("stream", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"A;name=value\r\n0123456789\r\n002\r\n\r\n\r\n0;last\r\nX-T: u\r\nX-V:w\r\n\r\n", b"0123456789\r\n"),
    ],
)
def test_a_body_ends_with_its_last_chunk_and_trailers(stream: bytes, body: bytes, step: int) -> None:
    assert decode(stream + b"GET /", step) == (body, b"GET /")


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"g\r\n", BadRequest),
        (b"-1\r\n", BadRequest),
        (b"0x3\r\nabc\r\n", BadRequest),
        (b" 3\r\nabc\r\n", BadRequest),
        (b"\r\n", BadRequest),
        (b"3\r\nabcd\r\n", BadRequest),
        (b"3\nabc\n", BadRequest),
        (b"3;a\rb\r\nabc\r\n", BadRequest),
        (b"0\r\nno colon\r\n\r\n", BadRequest),
        (b"0\r\nA : b\r\n\r\n", BadRequest),
        (b"FFFFFFFFF\r\n", BadRequest),
        (b"FFFFFFFF\r\n", TooLarge),
        (b"3e9\r\n", TooLarge),
        (b"0\r\n" + b"A: b\r\n" * 300, HeadTooLarge),
        (b"1;" + b"e" * 5000, BadRequest),
    ],
)
def test_what_is_not_strictly_chunked_or_over_a_limit_is_refused(
    stream: bytes, problem: type[Problem], step: int
) -> None:
    with pytest.raises(problem, match="Given: "):
        decode(stream, step)
