"""A decoder of chunked bodies (RFC 9112, 7.1). Strict: what a proxy could read otherwise is refused."""

from __future__ import annotations

import re

from service.problems import BadRequest, HeadTooLarge, TooLarge

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n\0]*)?")
_MAX_LINE_BYTES = 4096
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*")


class ChunkDecoder:
    """A body of at most `max_bytes`, whose framing lines and trailers are at most `max_trailer_bytes` in one go.

    Trailers are checked and dropped.
    """

    def __init__(self, *, max_bytes: int, max_trailer_bytes: int) -> None:
        self.body = bytearray()
        self._max_bytes = max_bytes
        self._max_trailer_bytes = max_trailer_bytes
        self._missing = 0  # bytes of the chunk that is being read, with the line end behind it
        self._in_trailers = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Take `data`; return what is left of it and whether the body has ended.

        Until it has, what is left is the start of a line, to be fed again with what comes next.

        Raises:
            BadRequest: it is not chunked as it must be.
            TooLarge, HeadTooLarge: it is over a limit.
        """
        at = 0
        while True:
            if self._missing:
                at = self._take_data(data, at)
                if self._missing:
                    return data[at:], False
            end = data.find(b"\r\n", at)
            if end < 0:
                self._check_unfinished(data[at:])
                return data[at:], False
            line, at = data[at:end], end + 2
            if not self._in_trailers:
                self._begin_chunk(line)
            elif not line:
                return data[at:], True
            else:
                self._check_trailer(line)

    def _take_data(self, data: bytes, at: int) -> int:
        """Take what has come of a chunk and of the line end behind it; return how far that reaches."""
        if self._missing > 2:
            piece = data[at : at + self._missing - 2]
            self.body += piece
            self._missing -= len(piece)
            at += len(piece)
        if self._missing == 2 and len(data) - at >= 2:
            if data[at : at + 2] != b"\r\n":
                raise BadRequest(f"a chunk must end with CRLF. Given: {data[at : at + 2]!r}")
            self._missing = 0
            at += 2
        return at

    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None or len(line) > _MAX_LINE_BYTES:
            raise BadRequest(f"a chunk must begin with its size in hexadecimal. Given: {line[:40]!r}")
        size = int(found[1], 16)
        if len(self.body) + size > self._max_bytes:
            raise TooLarge(f"the body must be at most {self._max_bytes:,} bytes. Given: more")
        if size:
            self._missing = size + 2
        else:
            self._in_trailers = True

    def _check_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > self._max_trailer_bytes:
            raise HeadTooLarge(f"trailers must be at most {self._max_trailer_bytes:,} bytes. Given: more")
        if not _TRAILER.fullmatch(line):
            raise BadRequest(f"a trailer must be a name, a colon and a value. Given: {line[:40]!r}")

    def _check_unfinished(self, line: bytes) -> None:
        """Refuse a line that could not become valid any more, or that is too long already."""
        most = self._max_trailer_bytes if self._in_trailers else _MAX_LINE_BYTES
        if len(line) > most:
            raise BadRequest(f"a line between chunks must be at most {most:,} bytes. Given: more")
        if b"\n" in line or b"\r" in line[:-1]:
            raise BadRequest(f"a line between chunks must end with CRLF. Given: {line[:40]!r}")
