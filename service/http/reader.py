"""The reader of a connection, which cuts its bytes into requests, each head read by llhttp.

Knows nothing about sockets or time: bytes in, requests and refusals out, however the bytes were split.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import httptools

from service.http.chunks import ChunkDecoder
from service.http.limits import Limits
from service.http.messages import Client, Request
from service.problems import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    Problem,
    TargetTooLong,
    TooLarge,
    VersionNotSupported,
)

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_CLOSE = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|$)", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_END = b"\r\n\r\n"
_SPACE: Final = 0x20
_HASH: Final = 0x23  # bytes are searched for a number in a tenth of the time that a byte string takes

_NAMES: Final = {
    written: name
    for name in (
        b"accept",
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"inference-header-content-length",
        b"traceparent",
        b"user-agent",
        b"x-request-id",
    )
    for written in (name, name.title(), name.title().replace(b"-Id", b"-ID"))
}
"""The names of most fields as clients write them, so that nothing must be made of them."""

_REMEMBERED_LINES, _REMEMBERED_LINE_BYTES = 1024, 128
"""Request lines that were understood, and how long they may be: clients send few, but choose them."""


class Refused(Exception):
    """The connection's bytes can no longer be understood as requests, or must not be read on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class RequestReader:
    """Reads requests one after the other.

    `on_head` is called with each request whose head is whole and valid; it may raise a Problem, and lower the request's
    `max_body_bytes`. `on_request` is called once the body is there, too, with whether the connection outlives the
    request; `on_refused` in its place, if `on_head` raised and the body has come with the head or there is none. With
    more to come, the reading ends. Offers to upgrade are ignored (RFC 9110, 7.8), trailers are dropped.
    """

    def __init__(
        self,
        limits: Limits,
        client: Client,
        *,
        on_head: Callable[[Request], None],
        on_request: Callable[[Request, bool], None],
        on_refused: Callable[[Request, bool, Problem], None],
    ) -> None:
        self._limits = limits
        self._client = client
        self._on_head = on_head
        self._on_request = on_request
        self._on_refused = on_refused
        self._unread = b""  # the start of a head, or of a line between chunks
        self._request: Request | None = None  # whose body is being read
        self._host: bytes | None = None  # of the request before, which was valid
        self._keeps_alive = True  # the connection, once the request that was read last is answered
        self._missing = 0  # bytes of that body, if its length is known
        self._body = bytearray()  # what has come of it
        self._chunks: ChunkDecoder | None = None  # if it is chunked
        self.awaits_continue = False
        """Whether the client waits to hear that it may send its body (`Expect: 100-continue`)."""

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return self._request is None and bool(self._unread)

    @property
    def in_body(self) -> bool:
        """Whether a head has ended whose body has not."""
        return self._request is not None

    @property
    def body_bytes(self) -> int:
        """The bytes that have come of the body that is being read."""
        return len(self._chunks.body if self._chunks else self._body)

    def feed(self, data: bytes) -> None:
        """Take what has arrived.

        Raises:
            Refused: with what to answer, after all requests that were read before; nothing may be fed any more.
        """
        if self._unread:
            data = self._unread + data
        goes_on = True
        try:
            while data and goes_on:
                if self._request is None:
                    data, goes_on = self._feed_head(data)
                elif self._chunks is None:
                    data = self._feed_body(self._request, data)
                else:
                    data, goes_on = self._feed_chunks(self._request, self._chunks, data)
        except Problem as problem:
            raise Refused(problem) from None
        self._unread = data

    # Heads

    def _feed_head(self, data: bytes) -> tuple[bytes, bool]:
        """Read a head; return what is left of `data` and whether that can be read on."""
        if not self._keeps_alive:
            return b"", False  # what follows a connection's last request is nobody's
        if data[0] in b"\r\n":  # empty lines before a request are ignored (RFC 9112, 2.2)
            data = data.lstrip(b"\r\n")
            if not data:
                return data, False
        end = data.find(_END)
        size = end if end >= 0 else len(data)
        if end < 0 or size > self._limits.max_head_bytes:
            self._check_unfinished(data[:size])
            return data, False
        head, data = data[: end + len(_END)], data[end + len(_END) :]
        return self._begin(self._read_head(head), data), True

    def _check_unfinished(self, head: bytes) -> None:
        """Refuse the start of a head that is too long already, or could not become valid any more."""
        limits = self._limits
        line, separator, _ = head.partition(b"\r\n")
        if len(line) > limits.max_target_bytes + 64:
            raise TargetTooLong(f"the URL must be at most {limits.max_target_bytes:,} bytes. Given: more")
        if len(head) > limits.max_head_bytes:
            raise HeadTooLarge(f"a request's head must be at most {limits.max_head_bytes:,} bytes. Given: more")
        if not head[:1].isalpha() or _BARE_LF.search(head) or (separator and not _REQUEST_LINE.fullmatch(line)):
            raise BadRequest(f"the request must begin with a line of HTTP/1.1. Given: {line[:40]!r}")

    def _read_head(self, head: bytes) -> Request:
        """Return the request whose head this is, and remember whether the connection outlives it."""
        first = head[: head.index(b"\r\n")]
        line = _known_line(first) if len(first) <= _REMEMBERED_LINE_BYTES else _RequestLine(first)
        method = line.method
        if line.target_bytes > self._limits.max_target_bytes:
            raise TargetTooLong(f"the URL must be at most {self._limits.max_target_bytes:,} bytes. Given: more")
        fields = _Fields(self._limits.max_headers)
        parser = httptools.HttpRequestParser(fields)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # nobody takes it up: what follows is still HTTP
        except httptools.HttpParserInvalidMethodError:
            raise NotImplementedHere(f"the method must be one of HTTP's. Given: {method[:20]}") from None
        except httptools.HttpParserError as error:
            raise BadRequest(f"the request's head must be HTTP/1.1. Given: {str(error).lower()}") from None
        if not fields.are_complete:
            raise BadRequest("the request's head must end with its first empty line. Given: another end")
        headers = fields.headers
        if fields.number > (most := self._limits.max_headers):
            raise HeadTooLarge(f"a request must have at most {most} headers. Given: {fields.number:,}")
        if fields.has_several_hosts:
            raise BadRequest("a request must have one Host header. Given: several")
        host = headers.get(b"host")
        is_http_1_0 = line.is_http_1_0
        is_valid = is_http_1_0 if host is None else host == self._host or _HOST.fullmatch(host)
        if not is_valid:
            raise BadRequest(f"a request must have one Host header, a host and a port. Given: {host and host[:80]!r}")
        self._host = host
        options = headers.get(b"connection")
        self._keeps_alive = not is_http_1_0 and (options is None or not _CLOSE.search(options))
        return Request(method, line.path, headers, self._client, raw_query=line.raw_query, is_http_1_0=is_http_1_0)

    # Bodies

    def _begin(self, request: Request, data: bytes) -> bytes:
        """Prepare for the body that the head announces; with none, the request is complete.

        Return what is left of `data`, which follows the head.
        """
        headers = request.headers
        coding, declared = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if coding is not None:
            if request.is_http_1_0 or declared is not None:
                raise BadRequest("a chunked body must be HTTP/1.1's, without a Content-Length. Given: otherwise")
            if coding.lower() != b"chunked":
                raise NotImplementedHere(f"Transfer-Encoding must be chunked alone. Given: {coding[:80]!r}")
        length = int(declared) if declared else 0  # llhttp has refused what is no number, and a second one
        expected = headers.get(b"expect")
        if expected is not None and expected.lower() != b"100-continue":
            raise ExpectationFailed(f"Expect must be 100-continue. Given: {expected[:80]!r}")
        request.max_body_bytes = self._limits.max_body_bytes
        try:
            self._on_head(request)
        except Problem as problem:
            if coding is not None or length > len(data):
                raise
            self._on_refused(request, self._keeps_alive, problem)
            return data[length:]
        most = request.max_body_bytes
        if length > most:
            raise TooLarge(f"the body must be at most {most:,} bytes. Given: {length:,}")
        self._request = request
        self._missing = length
        self._body = bytearray()
        self._chunks = None
        if coding is not None:
            self._chunks = ChunkDecoder(max_bytes=most, max_trailer_bytes=self._limits.max_head_bytes)
        elif not length:
            self._complete(request, b"")
            return data
        self.awaits_continue = expected is not None and not request.is_http_1_0
        return data

    def _feed_body(self, request: Request, data: bytes) -> bytes:
        """Take what there is of a body of known length; return what is left of `data`."""
        self.awaits_continue = False
        piece, data = (data, b"") if len(data) <= self._missing else (data[: self._missing], data[self._missing :])
        self._missing -= len(piece)
        if self._missing:
            self._body += piece
        else:
            self._complete(request, bytes(self._body) + piece if self._body else piece)
        return data

    def _feed_chunks(self, request: Request, chunks: ChunkDecoder, data: bytes) -> tuple[bytes, bool]:
        self.awaits_continue = False
        data, has_ended = chunks.feed(data)
        if has_ended:
            self._complete(request, bytes(chunks.body))
        return data, has_ended

    def _complete(self, request: Request, body: bytes) -> None:
        self._request = self._chunks = None
        self._body = bytearray()
        self.awaits_continue = False
        request.body = body
        self._on_request(request, self._keeps_alive)


class _RequestLine:
    """What the first line of a request says; `target_bytes` are those of the URL as it came."""

    __slots__ = ("is_http_1_0", "method", "path", "raw_query", "target_bytes")

    def __init__(self, line: bytes) -> None:
        """Read `line`, without its end.

        Raises:
            BadRequest, VersionNotSupported, NotImplementedHere: it is none that is taken here.
        """
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            raise BadRequest(f"the request line must be a method, a URL and HTTP/1.1. Given: {line[:80]!r}")
        self.method = found[1].decode()
        version = found[3]
        if version not in (b"1.1", b"1.0"):
            raise VersionNotSupported(f"the version must be HTTP/1.0 or 1.1. Given: {version.decode()}")
        if self.method == "CONNECT":
            raise NotImplementedHere("the method must ask for something here, which is no proxy. Given: CONNECT")
        self.is_http_1_0 = version == b"1.0"
        self.target_bytes = len(found[2])
        raw_path, _, self.raw_query = _origin_form(found[2]).partition(b"?")
        path = raw_path.decode("latin-1")
        self.path = unquote(path) if "%" in path else path


class _Fields:
    """The header fields of one head, as llhttp finds them, by lower-case name."""

    __slots__ = ("_most", "_repeated", "are_complete", "has_several_hosts", "headers")

    def __init__(self, most: int) -> None:
        self.headers: dict[bytes, bytes] = {}
        self._repeated = 0
        self.has_several_hosts = False
        self.are_complete = False
        self._most = most

    @property
    def number(self) -> int:
        """How many fields there are."""
        return len(self.headers) + self._repeated

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; those of one name are joined (RFC 9110, 5.3). What is raised here, llhttp would hide."""
        name = _NAMES.get(name) or name.lower()
        if name not in self.headers:
            self.headers[name] = value.strip(b" \t") if value and min(value[0], value[-1]) <= _SPACE else value
            return
        self._repeated += 1
        if self.number <= self._most:
            self.has_several_hosts |= name == b"host"
            self.headers[name] += b", " + value.strip(b" \t")

    def on_headers_complete(self) -> None:
        self.are_complete = True


def _origin_form(target: bytes) -> bytes:
    """Return the path and query that a request's target names.

    Raises:
        BadRequest: it is no URL.
    """
    if target[:1] != b"/" and target != b"*":
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(f"the URL must be valid. Given: {target[:80]!r}") from None
        if url.schema is None or not url.host:
            raise BadRequest(f"the URL must be a path, or begin with http://. Given: {target[:80]!r}")
        target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
    if _HASH in target:
        raise BadRequest(f"the URL must have no fragment. Given: {target[:80]!r}")
    return target


_known_line = lru_cache(_REMEMBERED_LINES)(_RequestLine)
