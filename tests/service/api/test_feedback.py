"""Truths find their predictions by request id, whichever process answers, and become accuracy and pairs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.__main__ import main
from service.api.feedback import Feedback
from service.api.keys import make
from service.client import AsyncClient, Client, NotFound, Prediction
from service.contract.manifest import FeatureInput
from service.engine.messages import BlockAnswer
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import Conflict, Problem, Unavailable, Unprocessable
from service.settings import Settings
from service.shared_lock import SharedLock
from service.telemetry.feedback.accuracy import wilson
from service.telemetry.feedback.pairs import Pairs
from service.telemetry.feedback.recent import Recent
from service.telemetry.metrics.totals import Totals
from tests import pictures
from tests.registries import SCORED, FirstFeature, ScoredRows, publish
from tests.running import Service, serving
from tests.service.api.asking import request
from tests.waiting import settled, wait_until

KEY, LINE = make("labels", frozenset({"predict", "feedback"}))
OTHER, OTHER_LINE = make("asks", frozenset({"predict", "admin"}))
ALONE, ALONE_LINE = make("labels-alone", frozenset({"feedback"}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Service]:
    """A service of two processes that takes feedback and keeps images."""
    root = tmp_path_factory.mktemp("registry")
    publish(root, module=ScoredRows(), **SCORED)
    publish(root, "sign", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{LINE}\n{OTHER_LINE}\n{ALONE_LINE}\n")
    options = ("--default-model", "rows", "--http-processes", "2", "--api-keys-file", str(keys))
    with serving(root, *options, "--feedback-predictions", "1000", "--feedback-dir", str(folder)) as service:
        service.client.headers["x-api-key"] = KEY
        yield service


def digit(class_id: int = 7, corner: int = 0) -> bytes:
    pixels = np.asarray(pictures.row(class_id)).copy()
    pixels[27, 27] = corner
    return pictures.encode(Image.fromarray(pixels))


def predict(service: Service, class_id: int = 7, **parameters: Any) -> str:
    """Ask for a prediction; return the id of the request."""
    answer = service.client.post("/predict", content=digit(class_id), params=parameters, headers=PNG)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


PNG = {"content-type": "image/png"}


def tell(service: Service, request_id: str, *, key: str = KEY, **truth: Any) -> httpx.Response:
    """Tell a truth over a connection of its own, which any process may get."""
    document = {"request_id": request_id, **truth}
    return httpx.post(f"{service.url}/feedback", json=document, headers={"x-api-key": key}, timeout=60)


def test_a_truth_finds_its_prediction_whichever_process_it_reaches(asked: Service) -> None:
    ids = [predict(asked, number % 10) for number in range(20)]

    told = [tell(asked, request_id, class_id=number % 10) for number, request_id in enumerate(ids)]

    assert [answer.status_code for answer in told] == [200] * 20
    assert [answer.json()["prediction"] for answer in told] == [str(number % 10) for number in range(20)]


def test_a_right_and_a_wrong_prediction_become_accuracy_in_json_and_metrics(asked: Service) -> None:
    def accuracy() -> dict[str, Any]:
        models: list[dict[str, Any]] = asked.client.get("/feedback").json()["models"]
        return next((one for one in models if one["model"] == "rows"), {})

    before = settled(accuracy, interval=0.6)  # each process hands in its numbers four times a second
    answers = [tell(asked, predict(asked), label=label).json() for label in ("7", "3")]
    n, right = before.get("n", 0) + 2, before.get("right", 0) + 1
    wait_until(lambda: accuracy().get("n") == n, 10, interval=0.05)

    assert [answer["outcome"] for answer in answers] == ["right", "wrong"]
    assert answers[1] | {"image": ""} == {
        "model": "rows",
        "version": 1,
        "index": 0,
        "prediction": "7",
        "truth": "3",
        "outcome": "wrong",
        "known_before": False,
        "kept": True,
        "image": "",
    }
    found = accuracy()
    assert (found["right"], found["accuracy"]) == (right, pytest.approx(right / n, abs=1e-6))
    assert found["interval"] == pytest.approx(wilson(right, n), abs=1e-6)
    assert asked.metric("inference_feedback_total", model="rows", outcome="right") == right
    assert asked.metric("inference_live_accuracy_ratio", bound="estimate") == pytest.approx(right / n)
    assert asked.metric("inference_live_accuracy_ratio", bound="lower") == pytest.approx(wilson(right, n)[0])


def test_one_of_several_images_is_told_by_its_index_in_the_answer(asked: Service) -> None:
    blank = pictures.encode(Image.new("L", (28, 28)))
    images = [digit(5), b"no picture", blank, digit(6)]
    document = {"images": [base64.b64encode(image).decode() for image in images]}
    request_id = asked.client.post("/predict", json=document).headers["x-request-id"]

    told = {index: tell(asked, request_id, class_id=6, index=index) for index in (None, *range(4))}

    assert {index: answer.status_code for index, answer in told.items()} == {None: 422, 0: 200, 1: 422, 2: 422, 3: 200}
    assert [told[index].json()["outcome"] for index in (0, 3)] == ["wrong", "right"]
    assert told[2].json()["detail"] == "index must be one of the request's predictions, 0, 3. Given: 2"


def test_the_protocols_have_feedback_too(asked: Service) -> None:
    images = np.stack([np.asarray(pictures.row(class_id))[None] for class_id in (2, 4)])
    tensor = {"name": "images", "shape": [2, 1, 28, 28], "datatype": "UINT8", "data": images.ravel().tolist()}
    answer = asked.client.post("/v2/models/rows/infer", json={"inputs": [tensor]}, headers={"x-request-id": "mine"})
    features = asked.client.post("/predict?model=sign", json={"features": [[1, 2]]})

    told = tell(asked, "mine", label="4", index=1).json()
    of_features = tell(asked, features.headers["x-request-id"], label="negative").json()

    assert answer.headers["x-request-id"] == "mine"
    assert (told["prediction"], told["outcome"]) == ("4", "right")
    assert (of_features["model"], of_features["outcome"]) == ("sign", "wrong")


def test_an_outlier_that_got_no_label_counts_neither_way(asked: Service) -> None:
    answer = asked.client.post("/predict?abstain=true", content=digit(7, corner=255), headers=PNG)

    told = tell(asked, answer.headers["x-request-id"], label="7").json()

    assert (told["prediction"], told["outcome"]) == (None, "abstained")


def test_the_same_truth_twice_counts_once_and_another_is_refused(asked: Service) -> None:
    request_id = predict(asked)
    first, again = (tell(asked, request_id, label="3").json() for _ in range(2))
    other = tell(asked, request_id, label="4")

    assert (first["known_before"], again["known_before"]) == (False, True)
    assert other.status_code == 409
    assert other.json()["detail"] == "a prediction has one truth, '3' as it was told first. Given: '4'"
    assert [pair["truth"] for pair in pairs(asked) if pair["request_id"] == request_id] == ["3"]


def pairs(service: Service) -> list[dict[str, Any]]:
    answer = service.client.get("/feedback/pairs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_truths_at_the_same_time_are_all_written_once(asked: Service) -> None:
    ids = [predict(asked) for _ in range(10)]
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda request_id: tell(asked, request_id, label="7"), ids * 2))

    assert [answer.status_code for answer in told] == [200] * 20
    assert sum(not answer.json()["known_before"] for answer in told) == 10
    assert sorted(pair["request_id"] for pair in pairs(asked) if pair["request_id"] in ids) == sorted(ids)


def test_the_labelled_image_is_in_the_folder_and_no_other(asked: Service, folder: Path) -> None:
    labelled, _ = predict(asked, 1), predict(asked, 9)
    image = tell(asked, labelled, label="2").json()["image"]

    with Image.open(io.BytesIO((folder / image).read_bytes())) as found:
        assert np.array_equal(np.asarray(found), np.asarray(pictures.row(1)))
    assert image.startswith("images/rows/2/")
    assert len(list(folder.rglob("*.png"))) == sum(pair["image"] is not None for pair in pairs(asked))


def test_an_unknown_id_is_not_found_and_the_answer_says_how_much_is_remembered(asked: Service) -> None:
    answer = tell(asked, "nobody", label="7")

    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("request_id must be of one of the latest 1,000 predictions")


def test_a_label_that_the_model_does_not_have_is_refused_with_its_classes(asked: Service) -> None:
    request_id = predict(asked)

    answers = [tell(asked, request_id, label="eight"), tell(asked, request_id, class_id=10)]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert [answer.json()["detail"] for answer in answers] == [
        "label must be one of the classes of rows@1: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Given: 'eight'",
        "class_id must be from 0 to 9, for the classes of rows@1: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Given: 10",
    ]


def test_feedback_has_a_scope_of_its_own(asked: Service) -> None:
    request_id = predict(asked)
    for method, path in (("POST", "/feedback"), ("GET", "/feedback"), ("GET", "/feedback/pairs")):
        refused = asked.client.request(method, path, headers={"x-api-key": OTHER})
        assert refused.status_code == 403
        assert refused.json()["detail"] == "the key must have the scope feedback. Given: admin,predict"

    assert tell(asked, request_id, label="7", key=ALONE).status_code == 200
    assert asked.client.post("/predict", content=digit(), headers={**PNG, "x-api-key": ALONE}).status_code == 403


def test_the_client_tells_what_its_own_predictions_should_have_been(asked: Service) -> None:
    with Client(asked.url, api_key=KEY) as client:
        one = client.predict(digit(3))
        _, second = client.predict_many([digit(3), digit(4)])
        assert isinstance(second, Prediction)
        told = [client.feedback(one, "3"), client.feedback(second, 5), client.feedback(predict(asked, 8), "8")]
        with pytest.raises(NotFound, match="request_id must be of one of the latest"):
            client.feedback("nobody", "7")
        (found,) = [one for one in client.accuracies() if one.model == "rows"]
        last = client.pairs()[-1]

    assert [answer.outcome for answer in told] == ["right", "wrong", "right"]
    assert (told[1].prediction, told[1].truth) == ("4", "5")
    assert found.interval is not None
    assert found.accuracy is not None
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert (last["prediction"], last["truth"]) == ("8", "8")


def test_the_asynchronous_client_does_so_too(asked: Service) -> None:
    async def ask() -> tuple[str, bool, bool]:
        async with AsyncClient(asked.url, api_key=KEY) as client:
            told = await client.feedback(await client.predict(digit(3)), "3")
            return told.outcome, bool(await client.accuracies()), bool(await client.pairs())

    assert asyncio.run(ask()) == ("right", True, True)


def test_the_command_tells_shows_and_exports(
    asked: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(KEY)
    request_id = predict(asked, 6)

    def run(*arguments: str) -> str:
        assert main(["feedback", *arguments, "--url", asked.url, "--api-key-file", str(tmp_path / "key")]) == 0
        return capsys.readouterr().out

    told, table, document, exported = run("tell", request_id, "2"), run(), run("--json"), run("pairs")

    assert told == "rows@1 said 6, which is wrong: 2\n"
    assert re.search(r"^rows +1 +\d+ +\d+ +\d+\.\d\d% +\d+\.\d\d% to \d+\.\d\d%$", table, re.MULTILINE)
    assert {one["model"] for one in json.loads(document)} >= {"rows"}
    assert [json.loads(line)["truth"] for line in exported.splitlines() if request_id in line] == ["2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tell", "id"], "tell must have ID and LABEL. Given: id"),
        (["pairs", "id", "7"], "pairs takes no ID. Given: id"),
        (["show"], "must be one of accuracy, tell, pairs. Given: 'show'"),
    ],
)
def test_the_command_says_how_it_is_used(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["feedback", *arguments])

    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_service_that_remembers_nothing_says_how_to_have_it_remember(service: Service) -> None:
    answers = [
        service.client.post("/feedback", json={"request_id": "a", "label": "7"}),
        service.client.get("/feedback"),
        service.client.get("/feedback/pairs"),
    ]

    assert [answer.status_code for answer in answers] == [409] * 3
    assert "--feedback-predictions" in answers[0].json()["detail"]
    assert "inference_feedback" not in service.client.get("/metrics").text


# Without a service


class Observed:
    def truth_told(self, model: ServedModel, outcome: str) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel(publish(tmp_path / "registry"), default=True)


@pytest.fixture
def feedback(tmp_path: Path, model: ServedModel) -> Feedback:
    recent = Recent(10, 1)
    recent.remember("id", model, [Part(BlockAnswer([7], [0.9], memoryview(b""), 10, 1, 0, 0), 0, 1)], b"")
    return made(recent, tmp_path, model)


def made(recent: Recent | None, folder: Path, *models: ServedModel) -> Feedback:
    async def totals() -> Totals:
        return Totals()

    return Feedback(recent, folder, lambda: models, totals, Observed(), Settings())  # type: ignore[arg-type]


async def tell_without_a_service(feedback: Feedback, body: bytes) -> dict[str, Any]:
    asked = request("POST", "/feedback")
    asked.body = body
    (route,) = [route for route in feedback.routes() if route.method == "POST"]
    response: Any = await route.answer(asked)  # type: ignore[misc]
    found: dict[str, Any] = json.loads(response.body)
    return found


def told(feedback: Feedback, body: bytes) -> dict[str, Any]:
    return asyncio.run(tell_without_a_service(feedback, body))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"request_id": "id"}',
        b'{"label": "7"}',
        b'{"request_id": 7, "label": "7"}',
        b'{"request_id": "id", "label": "7", "class_id": 7}',
        b'{"request_id": "id", "label": 7}',
        b'{"request_id": "id", "class_id": "7"}',
        b'{"request_id": "id", "class_id": true}',
        b'{"request_id": "id", "label": "7", "index": -1}',
        b'{"request_id": "id", "label": "7", "index": 0.5}',
        b'{"request_id": "id", "label": "7", "truth": 1}',
    ],
)
def test_a_body_that_tells_no_truth_is_refused(body: bytes, feedback: Feedback) -> None:
    with pytest.raises(Unprocessable, match="the body must be"):
        told(feedback, body)


def test_without_a_folder_pairs_are_kept_as_long_as_the_service(feedback: Feedback, tmp_path: Path) -> None:
    assert told(feedback, b'{"request_id": "id", "label": "3"}')["kept"] is True
    assert json.loads((tmp_path / "feedback" / "pairs.jsonl").read_bytes())["truth"] == "3"


def test_a_folder_that_cannot_be_written_to_costs_the_feedback_and_not_its_next_try(
    feedback: Feedback, tmp_path: Path
) -> None:
    (tmp_path / "feedback").write_text("in its place")
    with pytest.raises(Unavailable, match="must be writable"):
        told(feedback, b'{"request_id": "id", "label": "7"}')
    (tmp_path / "feedback").unlink()

    assert told(feedback, b'{"request_id": "id", "label": "7"}')["known_before"] is False


def test_a_truth_told_again_by_a_client_that_did_not_wait_for_a_slow_disk_counts_once(
    feedback: Feedback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    add = Pairs.add

    def slowly(pairs: Pairs, *about: Any) -> dict[str, Any]:
        begun.set()
        go.wait(10)
        return add(pairs, *about)

    monkeypatch.setattr(Pairs, "add", slowly)

    async def story() -> dict[str, Any]:
        first = asyncio.create_task(tell_without_a_service(feedback, b'{"request_id": "id", "label": "7"}'))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()  # as when its client leaves
        await asyncio.wait([first])
        again = asyncio.create_task(tell_without_a_service(feedback, b'{"request_id": "id", "label": "7"}'))
        await asyncio.sleep(0.05)
        go.set()
        return await again

    assert asyncio.run(story())["known_before"] is True
    assert len((tmp_path / "feedback" / "pairs.jsonl").read_bytes().splitlines()) == 1


def test_a_process_that_stopped_with_the_lock_keeps_nobody_waiting_for_ever(
    feedback: Feedback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.feedback._LOCK_TRIES", 1)
    stopped = SharedLock(tmp_path / "feedback.lock")
    stopped.take()
    with pytest.raises(Unavailable, match="written down"):
        told(feedback, b'{"request_id": "id", "label": "7"}')
    stopped.free()

    assert told(feedback, b'{"request_id": "id", "label": "7"}')["outcome"] == "right"


def test_without_predictions_to_remember_every_path_is_refused(tmp_path: Path) -> None:
    for route in made(None, tmp_path).routes():
        assert route.check
        with pytest.raises(Conflict) as refusal:
            route.check(request(route.method, route.path))
        assert isinstance(refusal.value, Problem)
