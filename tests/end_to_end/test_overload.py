"""What happens when more is asked than can be answered: refusals, deadlines, fairness, and clients that leave."""

from __future__ import annotations

import base64
import concurrent.futures
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import load, pictures
from tests.registries import Slow, publish
from tests.running import Service, serving
from tests.waiting import wait_until

PNG = pictures.row_png(3)
HEADERS = {"content-type": "image/png"}
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A good part of a second for each image, one at a time; eight may wait."""
    root = tmp_path_factory.mktemp("registry")
    publish(root, "slow", Slow(2000))  # an image takes longer than the quarter of a second between hand-ins
    publish(root, "quick")
    options = ("--default-model", "slow", "--max-batch-size", "1", "--max-queue", "8", "--http-processes", "1")
    with serving(root, *options, "--timeout-seconds", "30") as service:
        yield service
        assert service.stop() == 0, service.text


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        yield threads


def wait_for_depth(service: Service, depth: int) -> None:
    wait_until(lambda: service.metric("inference_queue_depth") == depth, otherwise=f"a depth of {depth}")


def test_a_full_queue_is_said_at_once_with_when_to_come_again_before_the_body_is_read(
    slow: Service, pool: concurrent.futures.Executor
) -> None:
    accepted = [pool.submit(slow.predict, PNG) for _ in range(8)]
    wait_for_depth(slow, 8)

    answer = slow.exchange(HEAD)

    assert answer.startswith("HTTP/1.1 429 ")
    assert "retry-after: " in answer
    assert "Given: 8 of 8 wait" in answer
    assert [request.result().status_code for request in accepted] == [200] * 8


def test_an_answer_that_would_come_too_late_is_504(slow: Service) -> None:
    late = slow.client.post("/predict", content=PNG, headers={**HEADERS, "x-request-timeout-ms": "20"})

    assert late.status_code == 504


def test_the_clients_own_deadline_is_capped_by_the_setting_and_must_be_a_number(slow: Service) -> None:
    patient = slow.client.post("/predict", content=PNG, headers={**HEADERS, "x-request-timeout-ms": "999999999"})
    wrong = [
        slow.client.post("/predict", content=PNG, headers={**HEADERS, "x-request-timeout-ms": text}).status_code
        for text in ("soon", "")
    ]

    assert patient.status_code == 200
    assert wrong == [400, 400]


def test_what_a_client_no_longer_waits_for_is_not_computed(slow: Service, pool: concurrent.futures.Executor) -> None:
    before = slow.metric_at_rest("inference_images_total", model="slow")
    stays = [pool.submit(slow.predict, PNG) for _ in range(3)]
    wait_for_depth(slow, 3)

    for _ in range(4):
        with socket.create_connection(("127.0.0.1", slow.port)) as connection:
            connection.sendall(load.request_of(PNG))

    assert [request.result().status_code for request in stays] == [200] * 3
    wait_for_depth(slow, 0)
    assert slow.metric_at_rest("inference_images_total", model="slow") - before < 3 + 4
    assert slow.metric("inference_requests_total", code="499") > 0


def test_one_request_of_many_images_does_not_keep_a_single_image_waiting(
    slow: Service, pool: concurrent.futures.Executor
) -> None:
    order: list[str] = []
    encoded = base64.b64encode(PNG).decode()

    def giant() -> None:
        assert slow.client.post("/predict", json={"images": [encoded] * 6}).status_code == 200
        order.append("giant")

    def single() -> None:
        assert slow.predict(PNG).status_code == 200
        order.append("single")

    first = pool.submit(giant)
    wait_for_depth(slow, 6)
    second = pool.submit(single)

    concurrent.futures.wait([first, second])
    assert order == ["single", "giant"]
    first.result(), second.result()


def test_bulk_requests_yield_to_the_rest(slow: Service, pool: concurrent.futures.Executor) -> None:
    order: list[str] = []

    def ask(priority: str) -> None:
        assert slow.predict(PNG, query=f"?priority={priority}").status_code == 200
        order.append(priority)

    bulk = [pool.submit(ask, "bulk") for _ in range(5)]
    wait_for_depth(slow, 5)
    normal = [pool.submit(ask, "normal") for _ in range(2)]

    for request in (*bulk, *normal):
        request.result()
    assert order.index("normal") < 4  # of seven, behind at most those that had left before it came
    assert order[-2:] == ["bulk", "bulk"]


def test_an_unknown_priority_is_refused(slow: Service) -> None:
    assert slow.predict(PNG, query="?priority=high").status_code == 400


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    with serving(tmp_path, "--timeout-seconds", "1") as service:
        answer = service.exchange(HEAD + b"half")

        assert answer.startswith("HTTP/1.1 408 ")
        assert service.predict(PNG).status_code == 200
