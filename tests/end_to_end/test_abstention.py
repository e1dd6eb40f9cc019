"""What a version does not know, from its artifact's second output to every client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import Client
from tests import pictures
from tests.registries import DISTRIBUTIONS, SCORED, ScoredRows, publish
from tests.running import Service, serving
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    registry = tmp_path_factory.mktemp("registry")
    publish(registry, module=ScoredRows(), **SCORED, distributions=DISTRIBUTIONS)
    publish(registry, "unscored")
    with serving(registry, "--default-model", "rows") as running:
        yield running


def digit(corner: int) -> bytes:
    """Return a picture of the class 7 whose score is `corner` / 255."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[7] = 255
    pixels[27, 27] = corner
    return pictures.encode(Image.fromarray(pixels))


BLANK = pictures.encode(Image.new("L", (28, 28)))


def ask(service: Service, *images: bytes, **parameters: Any) -> list[dict[str, Any]]:
    document = {"images": [base64.b64encode(image).decode() for image in images]}
    answer = service.client.post("/predict", json=document, params=parameters)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["predictions"]
    return entries


def test_outliers_and_blank_pictures_are_told_in_their_places(scored: Service) -> None:
    own, blank, foreign, bad = ask(scored, digit(0), BLANK, digit(255), b"no picture", show_input=True)

    assert (own["label"], own["outlier"], own["outlier_percentile"]) == ("7", False, 0)
    assert (foreign["label"], foreign["outlier"], foreign["outlier_percentile"]) == ("7", True, 99.5)
    assert (blank["label"], blank["outlier"], blank["blank"]) == (None, True, True)
    assert blank["input"].startswith("data:image/png;base64,")
    assert bad["error"]["status"] == 400


def test_a_blank_picture_is_answered_without_the_network(scored: Service) -> None:
    before = scored.metric_at_rest("inference_images_total", model="rows")

    entries = [*ask(scored, BLANK), *ask(scored, BLANK, BLANK)]

    assert [entry["probability"] for entry in entries] == [None] * 3
    assert scored.metric_at_rest("inference_images_total", model="rows") == before


def test_a_request_may_ask_for_no_label_and_that_is_counted(scored: Service) -> None:
    def counted(reason: str) -> float:
        return scored.metric_at_rest("inference_abstained_total", model="rows", reason=reason)

    before = counted("outlier"), counted("blank")

    entries = ask(scored, digit(255), digit(0), BLANK, abstain=True)

    assert [entry["label"] for entry in entries] == [None, "7", None]
    assert (counted("outlier"), counted("blank")) == (before[0] + 1, before[1] + 1)


def test_a_version_that_cannot_tell_refuses_to_abstain_and_looks_at_blank_pictures(scored: Service) -> None:
    refused = scored.client.post("/predict?model=unscored&coverage=0.9", content=BLANK, headers=PNG)
    answered = scored.client.post("/predict?model=unscored", content=BLANK, headers=PNG)

    assert (refused.status_code, answered.status_code) == (422, 200)
    assert set(answered.json()["predictions"][0]) == {"class_id", "label", "probability"}


PNG = {"content-type": "image/png"}


def test_the_client_reads_it(scored: Service) -> None:
    with Client(str(scored.client.base_url)) as client:
        foreign = client.predict(digit(255), abstain=True, coverage=0.9)
        blank = client.predict(BLANK)

    assert (foreign.label, foreign.outlier, foreign.outlier_percentile) == (None, True, 99.5)
    assert foreign.prediction_set is not None
    assert [one.label for one in foreign.prediction_set] == ["7"]
    assert (blank.label, blank.probability, blank.blank) == (None, None, True)


def test_predictions_unlike_those_for_held_out_images_are_drift(scored: Service) -> None:
    def parameters(model: str = "rows") -> dict[str, Any]:
        found: dict[str, Any] = scored.client.get(f"/v2/models/{model}").json()["parameters"]
        return found

    before = parameters()
    for _ in range(4):
        ask(scored, *[digit(0)] * 100)
    wait_until(lambda: parameters()["drift"] == "drifting", 10, interval=0.05)

    assert (before["drift"], parameters()["drift_window"], parameters()["drift_images"]) == ("filling", 400, 400)
    assert min(parameters()[f"drift_{name}"] for name in ("class", "confidence", "outlier")) > 1
    assert scored.metric("inference_drift_ratio", model="rows", distribution="class") > 1
    assert parameters("unscored")["drift"] == "not watched, because the manifest has no distributions"


def test_the_open_inference_protocol_has_two_more_outputs(scored: Service) -> None:
    images = np.zeros((3, 1, 28, 28), np.uint8)
    images[:2, 0, 7] = 255
    images[1, 0, 27, 27] = 255
    tensor = {"name": "images", "shape": [3, 1, 28, 28], "datatype": "UINT8", "data": images.ravel().tolist()}

    listed = [output["name"] for output in scored.client.get("/v2/models/rows").json()["outputs"]]
    answer = scored.client.post("/v2/models/rows/infer", json={"inputs": [tensor]}).json()

    outputs = {output["name"]: output for output in answer["outputs"]}
    assert list(outputs) == listed
    assert (outputs["outliers"]["datatype"], outputs["outliers"]["data"]) == ("BOOL", [False, True, True])
    assert outputs["outlier_percentiles"]["data"] == [0, 99.5, 100]  # the last one is blank
    assert outputs["class_ids"]["data"][:2] == [7, 7]
