"""The loads of the benchmarks, against a server that keeps what it is sent."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving.load import Posts, closed_loop, open_loop

pytestmark = pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk; apt-get install wrk")

BODIES = [b"first", b"second, longer"]
POSTS = Posts(BODIES, {"Content-Type": "image/png"})


class Keeper(ThreadingHTTPServer):
    """Answers 200, or 500 if told so, and keeps each request's id, content type and body."""

    daemon_threads = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/predict"

    def handle_error(self, *_: object) -> None:
        """Say nothing when wrk leaves in the middle of a request."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Keeper

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.headers["X-Request-ID"], self.headers["Content-Type"], body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_each_request_of_a_closed_loop_has_an_id_of_its_own_and_the_next_body(keeper: Keeper) -> None:
    result = closed_loop(keeper.url, POSTS, connections=2, seconds=1)
    again = closed_loop(keeper.url, POSTS, connections=2, seconds=1)

    ids, content_types, bodies = zip(*keeper.requests, strict=True)
    assert result.rate > 0
    assert result.errors == again.errors == 0
    assert len(set(ids)) == len(ids)
    assert set(content_types) == {"image/png"}
    assert set(bodies) == set(BODIES)


def test_a_closed_loop_sends_one_id_if_heads_are_not_to_differ(keeper: Keeper) -> None:
    closed_loop(keeper.url, POSTS, connections=2, seconds=1, distinct=False)

    assert len({request_id for request_id, _, _ in keeper.requests}) == 1


def test_an_answer_with_another_status_than_200_is_an_error(keeper: Keeper) -> None:
    keeper.status = 500

    result = closed_loop(keeper.url, POSTS, connections=2, seconds=1)

    assert result.rate == 0
    assert result.errors > 0


def test_an_open_loop_sends_as_many_requests_as_it_is_told_whatever_the_server_could_answer(keeper: Keeper) -> None:
    opened = open_loop(keeper.url, POSTS, rate=50, seconds=2)

    ids = [request_id for request_id, _, _ in keeper.requests]
    assert opened.result.errors == 0
    assert 50 <= len(ids) <= 160  # 100 expected, of a Poisson process
    assert len(set(ids)) == len(ids)
