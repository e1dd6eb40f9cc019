"""Requests as bytes on a socket: cut up, in a row, in pieces, compressed, and wrong."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterable

import pytest

from tests import pictures
from tests.running import Service

JSON = "application/json"


def post(body: bytes, *headers: str, path: str = "/predict", content_type: str = "image/png") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: argmax", f"Content-Type: {content_type}", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def last(row: int) -> bytes:
    return post(pictures.row_png(row), "Connection: close")


def sent(service: Service, pieces: Iterable[bytes]) -> bytes:
    """Return what is answered to `pieces` until the connection is closed, which the last request asks for."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.002)  # for the service to read it
        return b"".join(iter(lambda: connection.recv(65536), b""))


def labels(answered: bytes) -> list[str]:
    return re.findall(r'"label":"(\w+)"', answered.decode())


def test_requests_in_a_row_are_answered_in_their_order(service: Service) -> None:
    order = [3, 1, 4, 1, 5, 9, 2, 6]

    answered = sent(service, [b"".join(post(pictures.row_png(row)) for row in order[:-1]) + last(order[-1])])

    assert answered.count(b"HTTP/1.1 200") == len(order)
    assert labels(answered) == labels(b"".join(service.predict(pictures.row_png(row)).content for row in order))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_may_come_in_pieces_of_any_size(service: Service, size: int) -> None:
    request = last(7)

    answered = sent(service, [request[start : start + size] for start in range(0, len(request), size)])

    assert labels(answered) == labels(service.predict(pictures.row_png(7)).content)


def test_a_chunked_body_is_one_body_and_what_follows_is_a_request(service: Service) -> None:
    body = pictures.row_png(4)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:1], body[1:50], body[50:])) + b"0\r\n\r\n"

    answered = sent(service, [post(chunks, "Transfer-Encoding: chunked") + last(2)])

    assert labels(answered) == labels(b"".join(service.predict(pictures.row_png(row)).content for row in (4, 2)))


def test_a_compressed_body_is_decompressed(service: Service) -> None:
    answered = sent(service, [post(gzip.compress(pictures.row_png(8)), "Content-Encoding: gzip", "Connection: close")])

    assert labels(answered) == labels(service.predict(pictures.row_png(8)).content)


def test_one_picture_is_one_prediction_in_both_protocols(service: Service) -> None:
    row = 6
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": list(pictures.row(row).tobytes())}
    infer = json.dumps({"inputs": [tensor]}).encode()

    plain = service.predict(pictures.row_png(row)).json()["predictions"][0]
    v2 = sent(service, [post(infer, "Connection: close", path="/v2/models/rows/infer", content_type=JSON)])

    outputs = {output["name"]: output["data"] for output in json.loads(v2.partition(b"\r\n\r\n")[2])["outputs"]}
    assert outputs["class_ids"] == [plain["class_id"]]
    assert max(outputs["probabilities"]) == pytest.approx(plain["probability"], abs=1e-6)


HEAD = b"Host: argmax\r\nConnection: close\r\n"
REFUSED = {
    400: b"POST /predict HTTP/1.1\r\n" + HEAD + b"Content-Length: nonsense\r\n\r\n",
    404: b"GET /nowhere HTTP/1.1\r\n" + HEAD + b"\r\n",
    405: b"DELETE /predict HTTP/1.1\r\n" + HEAD + b"\r\n",
    413: b"POST /predict HTTP/1.1\r\n" + HEAD + b"Content-Type: image/png\r\nContent-Length: 9999999999\r\n\r\n",
    415: post(b"text", "Connection: close", content_type="text/plain"),
    422: post(b"[]", "Connection: close", content_type=JSON),
    431: b"GET /livez HTTP/1.1\r\n" + HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_wrong_request_is_refused_with_its_status_and_a_problem(service: Service, status: int) -> None:
    head, _, body = sent(service, [REFUSED[status]]).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["status"] == status
