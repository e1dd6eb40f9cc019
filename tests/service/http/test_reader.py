"""Requests are read the same however their bytes are split, and as a second parser (h11) reads them."""

from __future__ import annotations

import random
from typing import NamedTuple

import h11
import pytest

from service.http import reader as reader_module
from service.http.limits import Limits
from service.http.messages import Request
from service.http.reader import Refused, RequestReader
from service.problems import Problem

LIMITS = Limits(max_body_bytes=1000, max_bodies_bytes=10_000, max_head_bytes=2000, max_target_bytes=500, max_headers=20)


class Present:
    disconnected = False


class Read(NamedTuple):
    """What was read from a stream of bytes: its requests, then the status of a refusal or None."""

    requests: list[tuple[str, str, bytes, dict[bytes, bytes], bytes, bool]]
    refused: int | None


def read(*chunks: bytes, limits: Limits = LIMITS) -> Read:
    requests = []

    def on_request(request: Request, keeps_alive: bool) -> None:
        requests.append((request.method, request.path, request.raw_query, request.headers, request.body, keeps_alive))

    def on_refused(request: Request, _keeps_alive: bool, _problem: Problem) -> None:
        raise AssertionError(f"nothing refuses heads here, not even {request.path}")

    reader = RequestReader(limits, Present(), on_head=lambda _: None, on_request=on_request, on_refused=on_refused)
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except Refused as refused:
        return Read(requests, refused.problem.status)
    return Read(requests, None)


def bodies(*chunks: bytes) -> list[bytes]:
    found = read(*chunks)
    assert found.refused is None
    return [body for *_, body, _ in found.requests]


def post(body: bytes = b"abcd", *lines: bytes, length: bytes = b"", start: bytes = b"POST /predict HTTP/1.1") -> bytes:
    framing = length or b"Content-Length: %d" % len(body)
    return b"\r\n".join([start, b"Host: x", *lines, framing, b"", b""]) + body


CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"3;some=extension\r\nabc\r\n1\r\nd\r\n0\r\nX-Trailer: y\r\nContent-Type: image/gif\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


@pytest.mark.parametrize(
    ("stream", "statuses"),
    [
        pytest.param(b"POST / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b/c@\r\n\r\n", 400, id="a host that is none"),
        pytest.param(post(length=b"Content-Length: 4\r\nContent-Length: 5"), 400, id="two lengths"),
        pytest.param(post(length=b"Content-Length: +4"), 400, id="a signed length"),
        pytest.param(post(length=b"Content-Length: 4\r\n" + CHUNKED), 400, id="a length and chunks"),
        pytest.param(post(length=b"Transfer-Encoding: gzip, chunked"), 501, id="an unknown coding"),
        pytest.param(post(length=b"Transfer-Encoding: chunked, gzip"), 400, id="chunked is not last"),
        pytest.param(post(length=CHUNKED, start=b"POST / HTTP/1.0"), 400, id="chunks in HTTP/1.0"),
        pytest.param(post(b"zz\r\nabc\r\n", length=CHUNKED), 400, id="a chunk without a size"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A : b\r\n\r\n", 400, id="a space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n", 400, id="a folded header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n", 400, id="a bare CR"),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", 400, id="bare LFs"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: \0\r\n\r\n", 400, id="NUL"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS"),
        pytest.param(b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, id="HTTP/2.0 in a line"),
        pytest.param(b"GET / HTTP/1.9\r\nHost: x\r\n\r\n", 505, id="HTTP/1.9"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="the preface of HTTP/2"),
        pytest.param(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501, id="CONNECT"),
        pytest.param(b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 501, id="an unknown method"),
        pytest.param(b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a port that is none"),
        pytest.param(b"GET http:///predict HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a URL without a host"),
        pytest.param(b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a fragment"),
        pytest.param(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 501), 414, id="a long URL"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n" % (b"a" * 2001), 431, id="a long header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000, 431, id="a head that never ends"),
        pytest.param(post(b"", length=b"Content-Length: 1001"), 413, id="a long body, by its length"),
        pytest.param(post(b"3e9\r\n" + b"a" * 1001, length=CHUNKED), 413, id="a long body, by its chunks"),
        pytest.param(post(b"1;" + b"e" * 9000, length=CHUNKED), 400, id="a chunk extension that never ends"),
        pytest.param(post(b"0\r\nX-A: " + b"a" * 9000, length=CHUNKED), 400, id="a trailer that never ends"),
        pytest.param(post(b"0\r\n" + b"A: b\r\n" * 501 + b"\r\n", length=CHUNKED), 431, id="long trailers"),
        pytest.param(post(b"abcd", b"Expect: tea"), 417, id="an expectation of something else"),
    ],
)
def test_a_stream_that_is_no_request_is_refused_however_it_is_split(stream: bytes, statuses: int) -> None:
    assert read(stream) == Read([], statuses)
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == Read([], statuses)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY"])
def test_every_standard_method_is_read_so_that_a_path_can_say_which_it_takes(method: str) -> None:
    ((given, *_),) = read(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode()).requests

    assert given == method


def test_a_head_counts_only_once_its_empty_line_has_come() -> None:
    unfinished = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nX-Junk: a"

    assert read(unfinished) == Read([], None)
    assert len(read(unfinished, b"GET /v2 HTTP/1.1\r\nY: z\r\n\r\n").requests) == 1
    assert bodies(unfinished.removesuffix(b"0\r\nX-Junk: a"), b"4\r\n\r\nabcd") == [b"abcd"]


@pytest.mark.parametrize(
    "stream",
    [post(b"abcd", *UPGRADE), post(CHUNKS, *UPGRADE, length=CHUNKED)],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_offer_to_upgrade_is_ignored_and_its_body_read(stream: bytes, step: int) -> None:
    stream += GET + post(b"more")

    assert bodies(*(stream[i : i + step] for i in range(0, len(stream), step))) == [b"abcd", b"", b"more"]


def test_a_body_that_looks_like_a_request_is_a_body_behind_an_offer_to_upgrade_too() -> None:
    assert bodies(post(GET, *UPGRADE)) == [GET]


def test_trailers_do_not_become_headers() -> None:
    ((_, _, _, headers, body, _),) = read(post(CHUNKS, length=CHUNKED)).requests

    assert body == b"abcd"
    assert headers == {b"host": b"x", b"transfer-encoding": b"chunked"}


def test_white_space_around_a_value_is_no_part_of_it_and_values_of_one_name_are_joined() -> None:
    ((_, _, _, headers, _, _),) = read(post(b"", b"X-A: \t 1 \t", b"x-a:2")).requests

    assert headers[b"x-a"] == b"1, 2"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/predict?model=a&b", "/predict", b"model=a&b"),
        (b"/v2/models/caf%C3%A9", "/v2/models/café", b""),
        (b"http://x/predict?a=b", "/predict", b"a=b"),
        (b"http://x", "/", b""),
        (b"*", "*", b""),
    ],
)
def test_a_target_is_a_path_and_a_query(target: bytes, path: str, query: bytes) -> None:
    ((_, found_path, found_query, *_),) = read(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").requests

    assert (found_path, found_query) == (path, query)


@pytest.mark.parametrize(
    ("version", "line", "expected"),
    [
        (b"1.1", b"X-A: b", True),
        (b"1.1", b"Connection: close", False),
        (b"1.0", b"X-A: b", False),
        (b"1.0", b"Connection: keep-alive", False),
    ],
)
def test_whether_the_connection_outlives_a_request(version: bytes, line: bytes, expected: bool) -> None:
    ((*_, keeps_alive),) = read(b"GET / HTTP/%s\r\nHost: x\r\n%s\r\n\r\n" % (version, line)).requests

    assert keeps_alive is expected


# Against a second parser


def generated(random: random.Random) -> bytes:
    """A stream of one to four requests, many of them wrong in one of the ways that parsers differ in."""
    return b"".join(_generated_request(random) for _ in range(random.randint(1, 4)))


def _generated_request(random: random.Random) -> bytes:
    body = random.choice([b"", b"a", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", random.randbytes(random.randint(1, 40))])
    framing = random.choice([b"length", b"length", b"chunks", b"none"])
    lines = [
        random.choice([b"POST", b"GET", b"PUT", b"HEAD"])
        + random.choice([b" "] * 30 + [b"  ", b"\t"])
        + random.choice([b"/", b"/predict", b"/predict?a=b", b"*", b"http://x/y", b"/a%20b"])
        + random.choice([b" HTTP/1.1"] * 30 + [b" HTTP/1.0", b" HTTP/1.1 ", b"", b" HTTP/3.0"]),
        random.choice([b"Host: x"] * 30 + [b"Host: x\r\nHost: y", b"X-No-Host: x", b"Host : x", b"Host:x:8000"]),
    ]
    common = [b"X-A: b", b"X-A:\tb \t", b"x-b:", b"X-C: \xe9", b"Accept: */*", b"Connection: keep-alive"]
    odd = [b"X-A: b\r\n folded", b"X-A\t: b", b": b", b"X A: b", b"X-A: b\x00", b"X-A: b\rc", b"no colon"]
    lines += random.choices(common * 4 + odd, k=random.randint(0, 3))
    if framing == b"length":
        length = b"%d" % len(body)
        wrong = [b"+" + length, length + b", " + length, b"-1", b"a"]
        lines.append(b"Content-Length: " + random.choice([length] * 30 + wrong))
    elif framing == b"chunks":
        lines.append(random.choice([CHUNKED] * 20 + [b"Transfer-Encoding: Chunked", b"Transfer-Encoding: x, chunked"]))
        cut = random.randint(0, len(body))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        encoded = [b"%x%s\r\n%s\r\n" % (len(piece), random.choice([b"", b"", b";a=b"]), piece) for piece in pieces]
        body = b"".join([*encoded, b"0\r\n", random.choice([b"", b"", b"X-T: u\r\n"]), b"\r\n"])
    else:
        body = b""
    random.shuffle(lines[1:])
    end = random.choice([b"\r\n"] * 40 + [b"\n"])
    return end.join([*lines, b"", b""]) + body


def read_by_h11(stream: bytes) -> Read:
    """What h11 reads; its headers are compared as a set of names and stripped values."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2000)
    connection.receive_data(stream)
    requests: list[tuple[str, str, bytes, dict[bytes, bytes], bytes, bool]] = []
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return Read(requests, None)
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                requests.append((request.method.decode(), request.target.decode("latin-1"), b"", {}, body, True))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return Read(requests, None)
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        return Read(requests, error.error_status_hint)


def test_generated_streams_are_read_as_h11_reads_them_or_refused_where_it_is_laxer() -> None:
    numbers = random.Random(20261126)
    agreed = stricter = 0
    for _ in range(8000):
        stream = generated(numbers)
        cuts = sorted(numbers.randint(0, len(stream)) for _ in range(numbers.randint(0, 6)))
        chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

        found, whole, other = read(*chunks), read(stream), read_by_h11(stream)

        assert found == whole, f"{stream!r} depends on how it is split at {cuts}"
        ours = [(method, body) for method, _, _, _, body, _ in found.requests]
        theirs = [(method, body) for method, _, _, _, body, _ in other.requests]
        # Being stricter is safe; reading a request that the other does not see, or another body, is smuggling.
        assert ours == theirs[: len(ours)], f"{stream!r}: {ours} and {theirs}"
        if len(ours) < len(theirs):
            assert found.refused is not None or not found.requests[-1][-1], f"{stream!r} lost a request"
            stricter += 1
        else:
            agreed += 1
    assert agreed > 5000
    assert stricter > 50


@pytest.mark.parametrize("host", [b"", b"Host: a b\r\n", b"Host: x\r\nHost: x\r\n"], ids=["none", "no host", "several"])
def test_every_request_of_a_connection_needs_a_valid_host(host: bytes) -> None:
    found = read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n" + host + b"\r\n")

    assert (len(found.requests), found.refused) == (1, 400)


def test_what_is_remembered_of_request_lines_is_limited_in_bytes() -> None:
    for number in range(2000):
        read(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    before = reader_module._known_line.cache_info()

    read(b"GET /" + b"m" * 200 + b" HTTP/1.1\r\nHost: x\r\n\r\n")

    assert before.currsize * reader_module._REMEMBERED_LINE_BYTES <= 2**20
    assert reader_module._known_line.cache_info() == before
