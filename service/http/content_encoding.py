"""A decoder of bodies that clients compress (RFC 9110, 8.4), within the limit that holds for plain ones."""

from __future__ import annotations

import zlib

from service.http.messages import Request
from service.problems import BadRequest, TooLarge, UnsupportedMediaType

_GZIP = 16 + zlib.MAX_WBITS


def decoded_body(request: Request) -> bytes:
    """Return the request's body, decompressed if its Content-Encoding says so.

    Raises:
        BadRequest: it is not what its encoding says.
        TooLarge: it is over the request's limit once it is decompressed.
        UnsupportedMediaType: the encoding is none of gzip, deflate and identity, or several.
    """
    encoding = request.headers.get(b"content-encoding")
    if encoding is None:
        return request.body
    name = encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return request.body
    if name in ("gzip", "x-gzip"):
        return _decompressed(request, _GZIP, name)
    if name == "deflate":
        # The name means zlib's format; some clients send what is inside it.
        is_zlib = request.body[:1] and request.body[0] & 0x0F == 8 and int.from_bytes(request.body[:2], "big") % 31 == 0
        return _decompressed(request, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, name)
    raise UnsupportedMediaType(f"Content-Encoding must be gzip, deflate or identity. Given: {name[:40]!r}")


def _decompressed(request: Request, window: int, name: str) -> bytes:
    most = request.max_body_bytes
    decompressor = zlib.decompressobj(window)
    try:
        body = decompressor.decompress(request.body, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body must be {name}, as its Content-Encoding says. Given: {error}") from None
    if len(body) > most:
        raise TooLarge(f"the body must be at most {most:,} bytes, decompressed. Given: more")
    if not decompressor.eof or decompressor.unused_data:
        raise BadRequest(
            f"the body must be one whole {name} stream, as its Content-Encoding says. Given: another length"
        )
    return body
