"""A decoder of bodies that clients compress (RFC 9110, 8.4), within the limit that holds for plain ones.

Knows nothing about connections. A few kilobytes can become megabytes, so whoever decodes decides where that happens.
"""

from __future__ import annotations

import zlib

from service.http.messages import Request
from service.problems import BadRequest, TooLarge, UnsupportedMediaType

AT_ONCE_BYTES = 64 * 1024
"""Of a decoded body that takes 0.2 ms at most."""

_GZIP = 16 + zlib.MAX_WBITS


def is_encoded(request: Request) -> bool:
    """Return whether the request's body is there and said to be compressed."""
    encoding = request.headers.get(b"content-encoding")
    return encoding is not None and bool(request.body) and encoding.lower() not in _PLAIN


def decoded_at_once(request: Request) -> bytes | None:
    """Return the request's body, decompressed, or None if it is of more than AT_ONCE_BYTES.

    Raises:
        BadRequest, TooLarge, UnsupportedMediaType: as `decoded_body`.
    """
    return _decoded(request, min(AT_ONCE_BYTES, request.max_body_bytes))


def decoded_body(request: Request) -> bytes:
    """Return the request's body, decompressed. It may run on a thread, which leaves the interpreter to others.

    Raises:
        BadRequest: it is not what its encoding says.
        TooLarge: it is over the request's limit once it is decompressed.
        UnsupportedMediaType: the encoding is neither gzip nor deflate, or several.
    """
    body = _decoded(request, request.max_body_bytes)
    assert body is not None  # noqa: S101 - its limit is the request's own
    return body


_PLAIN = (b"", b"identity")


def _decoded(request: Request, most: int) -> bytes | None:
    """Return the body if it is of at most `most` bytes, None if it is larger and the request's limit is, too."""
    name = request.headers[b"content-encoding"].decode("latin-1").lower()
    decompressor = zlib.decompressobj(_window(name, request.body))
    try:
        body = decompressor.decompress(request.body, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body must be {name}, as its Content-Encoding says. Given: {error}") from None
    if len(body) > request.max_body_bytes:
        raise TooLarge(f"the body must be at most {request.max_body_bytes:,} bytes, decompressed. Given: more")
    if len(body) > most:
        return None
    if not decompressor.eof or decompressor.unused_data:
        raise BadRequest(
            f"the body must be one whole {name} stream, as its Content-Encoding says. Given: another length"
        )
    return body


def _window(name: str, body: bytes) -> int:
    """Return what zlib calls the encoding `name`."""
    if name in ("gzip", "x-gzip"):
        return _GZIP
    if name == "deflate":
        # The name means zlib's format; some clients send what is inside it.
        is_zlib = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
    raise UnsupportedMediaType(f"Content-Encoding must be gzip, deflate or identity. Given: {name[:40]!r}")
