"""Both clients, against the real service and against services that misbehave."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    Failed,
    NoAnswer,
    NotAllowed,
    NotFound,
    Prediction,
    PredictionError,
    Refused,
)
from tests import pictures
from tests.running import Service

GOOD = {"model": "rows", "version": 1, "predictions": [{"class_id": 7, "label": "7", "probability": 0.9}]}

DEEP = "[" * 100_000
"""JSON that no parser of Python's reads."""


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


def answering(answer: Callable[[httpx.Request], httpx.Response] | httpx.Response, **options: Any) -> Client:
    handler = answer if callable(answer) else lambda _: answer
    return Client("http://service", transport=httpx.MockTransport(handler), **options)


def class_ids(answers: list[Prediction | PredictionError]) -> list[int | None]:
    return [answer.class_id if isinstance(answer, Prediction) else -1 for answer in answers]


# One image


def test_every_kind_of_image_is_recognised(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(pictures.row_png(0))
    images = [
        path,
        pictures.row_png(1),
        io.BytesIO(pictures.row_png(2)),
        pictures.row(3),
        np.asarray(pictures.row(4)),
        torch.tensor(np.asarray(pictures.row(5)))[None],
    ]

    assert [client.predict(image).class_id for image in images] == list(range(6))  # type: ignore[arg-type]


def test_a_prediction_is_typed_and_says_which_model_answered(client: Client) -> None:
    prediction = client.predict(pictures.row_png(7))

    assert prediction == Prediction(7, "7", pytest.approx(1, abs=1e-4), model="rows", version=1)  # type: ignore[arg-type]


def test_top_k_and_probabilities_come_when_they_are_asked_for(client: Client) -> None:
    prediction = client.predict(pictures.row_png(7), top_k=2, probabilities=True)

    assert prediction.top_k is not None
    assert [one.label for one in prediction.top_k] == ["7", "0"]
    assert prediction.probabilities is not None
    assert len(prediction.probabilities) == 10
    assert prediction.probabilities[7] == prediction.probability


def test_a_model_and_a_version_can_be_chosen(client: Client) -> None:
    picture = pictures.row(6, size=32).convert("RGB")

    assert client.predict(picture, model="photos", version=1).model == "photos"


def test_a_refusal_has_the_services_words_its_status_and_the_requests_id(client: Client) -> None:
    with pytest.raises(Refused, match=r"the image must be one of PNG.* Given: 5 bytes") as refused:
        client.predict(b"hello")

    assert refused.value.status == 400
    assert refused.value.request_id
    assert f"(status 400, request {refused.value.request_id})" in str(refused.value)


def test_a_model_that_does_not_exist_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="nope"):
        client.predict(pictures.row_png(0), model="nope")


def test_an_option_that_does_not_exist_is_refused_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(TypeError, match="topk"):
        client.predict(b"", topk=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"top_k must be at least 1. Given: 0"):
        client.predict(b"", top_k=0)


# Several


def test_many_images_of_mixed_kinds_are_answered_in_order_and_bad_ones_alone_fail(
    client: Client, tmp_path: Path
) -> None:
    images = [pictures.row_png(1), b"hello", pictures.row(2), tmp_path / "missing.png", np.asarray(pictures.row(3))]

    answers = client.predict_many(images)  # type: ignore[arg-type]

    assert class_ids(answers) == [1, -1, 2, -1, 3]
    assert isinstance(answers[1], PredictionError)
    assert (answers[1].status, "Given: 5 bytes" in answers[1].detail) == (400, True)
    assert isinstance(answers[3], PredictionError)
    assert answers[3].status is None
    assert "the file must be readable. Given: " in answers[3].detail


def test_more_images_than_a_request_may_hold_are_sent_in_several(client: Client) -> None:
    answers = client.predict_many(pictures.row_png(i % 10) for i in range(1100))

    assert class_ids(answers) == [i % 10 for i in range(1100)]


def test_images_that_are_all_bad_are_each_told_about_themselves(client: Client) -> None:
    answers = client.predict_many([b"hello", b"hi"])

    assert ["5 bytes" in answers[0].detail, "2 bytes" in answers[1].detail] == [True, True]  # type: ignore[union-attr]


def test_no_images_are_no_request() -> None:
    with answering(httpx.Response(500)) as client:
        assert client.predict_many([]) == []
        for one in ("digit.png", Path("digit.png"), b"..."):  # not an image for each of its letters
            with pytest.raises(TypeError, match=r"images must be several.* Given: one (str|PosixPath|bytes)"):
                client.predict_many(one)  # type: ignore[arg-type]


def test_a_model_that_does_not_exist_fails_all_of_many(client: Client) -> None:
    with pytest.raises(NotFound):
        client.predict_many([pictures.row_png(0)] * 3, model="nope")


def test_large_images_share_no_request() -> None:
    sizes: list[int] = []

    def count(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content))
        return httpx.Response(200, json=GOOD)

    with answering(count) as client:
        client.predict_many([bytes(3_000_000)] * 3)

    assert sizes == [3_000_000] * 3


def test_features_are_answered(client: Client) -> None:
    answers = client.features(np.array([[3, 0], [-2.5, 1]]), model="sign", top_k=2)

    assert [answer.label for answer in answers if isinstance(answer, Prediction)] == ["positive", "negative"]


def test_features_of_the_wrong_width_are_refused(client: Client) -> None:
    with pytest.raises(Refused, match=r"lists of 2 numbers. Given: \[1\]"):
        client.features([[1]], model="sign")


# What else the service says


def test_health_says_that_the_service_is_ready_and_what_of(client: Client) -> None:
    health = client.health()

    assert (health.ready, health.status) == (True, "ready")
    assert health.models["rows@1"] is True


def test_that_the_service_is_not_ready_is_an_answer() -> None:
    with answering(httpx.Response(503, json={"status": "draining"}, headers={"retry-after": "1"})) as client:
        health = client.health()

    assert (health.ready, health.status) == (False, "draining")


def test_models_are_listed(client: Client) -> None:
    models = client.models()

    assert models.default == "rows"
    assert [(model.name, model.version, model.default) for model in models.models] == [
        ("photos", 1, True),
        ("rows", 1, True),
        ("sign", 1, True),
    ]
    assert models.models[1].classes == tuple("0123456789")
    assert models.models[1].input["shape"] == [1, 28, 28]


# How it is sent


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "url must be an address as http://host:8000. Given: 'localhost:8000'"),
        ({"url": "http://a..b"}, "url must be an address"),
        ({"url": "http://host/?model=mnist"}, "url must be an address"),
        ({"url": "http://host\n"}, "url must be an address"),
        ({"api_key": "schlüssel"}, "api_key must be printable ASCII. Given: other characters"),
        ({"timeout_seconds": 0}, "timeout_seconds must be more than 0. Given: 0"),
    ],
    ids=str,
)
def test_a_client_that_could_not_ask_anything_is_refused(
    kind: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**options)


def test_a_proxy_that_cannot_be_used_is_an_error_of_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:70")

    with pytest.raises(NoAnswer, match="the proxy in the environment must be one that httpx can use"):
        Client("http://host")


def test_an_api_key_goes_into_the_header() -> None:
    seen: list[str | None] = []

    def check(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=GOOD)

    with answering(check, api_key="secret") as client:
        client.predict(b"x")
    with answering(check) as client:
        client.predict(b"x")

    assert seen == ["Bearer secret", None]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_accepted_is_not_allowed(status: int) -> None:
    with (
        answering(httpx.Response(status, json={"detail": "an API key is required. Given: none"})) as client,
        pytest.raises(NotAllowed, match="an API key is required"),
    ):
        client.predict(b"x")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>hello</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"predictions": []}),
        httpx.Response(200, json={**GOOD, "predictions": []}),
        httpx.Response(200, json={**GOOD, "predictions": [{}]}),
        httpx.Response(200, json={**GOOD, "predictions": "abc"}),
        httpx.Response(200, text=DEEP),
        httpx.Response(302, headers={"location": "/login"}),
        httpx.Response(502, text="Bad Gateway"),
    ],
    ids=["html", "list", "no model", "no answer", "empty answer", "text", "deep", "redirect", "proxy"],
)
def test_what_is_not_the_service_fails_with_what_it_said(answer: httpx.Response) -> None:
    with answering(answer) as client, pytest.raises(Failed, match=r"must .*\. Given: "):
        client.predict(b"x")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        *itertools.product(
            [Client.health, Client.models, Client.accuracies], ['{"models": "abc"}', '{"models": [1]}', "1", DEEP]
        ),
        *itertools.product([Client.pairs], ["1", DEEP]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else value.__name__,
)
def test_whatever_is_asked_of_another_service_is_an_error_of_the_clients_own(
    ask: Callable[[Client], object], said: str
) -> None:
    with (
        answering(httpx.Response(200, text=said)) as client,
        pytest.raises(Failed, match=r"must answer as the service"),
    ):
        ask(client)


def test_a_connection_is_kept_for_the_next_request(client: Client, service: Service) -> None:
    client.predict(pictures.row_png(0))
    before = sum((service.sockets(process) or []).count("ESTABLISHED") for process in service.processes("http"))

    for _ in range(20):
        client.predict(pictures.row_png(0))

    after = sum((service.sockets(process) or []).count("ESTABLISHED") for process in service.processes("http"))
    assert after == before


def test_the_asynchronous_client_does_all_of_it_too(service: Service) -> None:
    async def ask() -> tuple[object, ...]:
        async with AsyncClient(service.url) as client:
            return (
                (await client.predict(pictures.row(4), top_k=1)).class_id,
                class_ids(await client.predict_many([pictures.row_png(1), b"no", pictures.row_png(2)])),
                class_ids(await client.features([[1, 0]], model="sign")),
                (await client.health()).ready,
                (await client.models()).default,
            )

    assert asyncio.run(ask()) == (4, [1, -1, 2], [1], True, "rows")


def test_the_asynchronous_client_raises_the_same_errors(service: Service) -> None:
    async def ask() -> None:
        async with AsyncClient(service.url) as client:
            await client.predict(b"hello")

    with pytest.raises(Refused, match="Given: 5 bytes"):
        asyncio.run(ask())


def test_importing_the_client_loads_no_framework() -> None:
    code = "import service.client, sys; print('\\n'.join(sys.modules))"

    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )

    assert not loaded & {"torch", "torchvision", "numpy", "PIL", "litserve", "fastapi", "starlette", "pydantic"}
    assert {name for name in loaded if name.startswith("service.")} == {
        name for name in loaded if name.startswith("service.client")
    }


def test_every_error_is_a_client_error() -> None:
    assert issubclass(Refused, ClientError)
    assert issubclass(Failed, ClientError)


def test_pairs_whose_labels_hold_what_unicode_takes_for_the_end_of_a_line_are_whole() -> None:
    pairs = [{"truth": "first\u2028second"}, {"truth": "next\u0085line"}]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)

    with answering(httpx.Response(200, text=lines)) as client:
        assert client.pairs() == pairs
