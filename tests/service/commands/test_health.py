"""Health, against servers that are not ready or are not the service."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from service.__main__ import main


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that says `request.param` to the first who asks, or nothing at all."""
    answer: bytes | None = request.param
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/prefix/"
        done.set()
        thread.join()


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (http("503 Service Unavailable", '{"status": "draining"}'), "not ready: draining\n"),
        (http("404 Not Found", '{"detail": "what?"}'), "not ready: status 404\n"),
        (http("200 OK", "<html>"), "must answer as the service does. Given: "),
        (http("200 OK", "[]"), "Given: JSON that is another's, with status 200"),
        (
            http("200 OK", '{"models": [1]}'),
            "Given: JSON that is another's, with status 200",
        ),
        (http("200 OK", "[" * 100_000), "Given: JSON that goes too deep"),
        (b"SSH-2.0-OpenSSH\r\n", "must answer as the service does. Given: "),
        (b"", "must answer as the service does. Given: "),
        (None, "Given: timed out"),
    ],
    indirect=["server"],
    ids=["draining", "not found", "html", "list", "other models", "deep", "ssh", "hangs up", "silent"],
)
def test_whatever_is_not_a_ready_service_is_not_ready(
    server: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["health", "--url", server, "--timeout-seconds", "0.5"])

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("not ready: ")
    assert said in captured.err
