"""Clients that were written for TorchServe's image classifier are answered as it would, if that was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import cast

import orjson
import pytest

from service.api.torchserve import TorchServe, error_response
from service.problems import BadRequest, Problem, QueueFull, Unavailable
from tests import pictures
from tests.registries import publish
from tests.running import Service, serving
from tests.service.api.asking import request


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of one flat folder, which the models of its registry must not spoil."""
    folder = tmp_path_factory.mktemp("folder")
    publish(folder / "registry", "rows")
    publish(folder / "other", "other")
    shutil.move(folder / "registry" / "rows" / "1", folder / "flat")
    options = ("--model-dir", str(folder / "flat"), "--model-name", "digits", "--poll-seconds", "0.05")
    with serving(folder / "other", *options, "--torchserve", "true", "--http-processes", "1", traced=False) as service:
        shutil.rmtree(folder / "flat")  # it was read, and nobody looks at it again
        yield service


def test_a_flat_folder_is_served_under_the_name_that_was_given_and_not_polled(running: Service) -> None:
    models = running.client.get("/models").json()

    assert [(model["name"], model["version"], model["default"]) for model in models["models"]] == [("digits", 1, True)]
    assert models["absent"] == []
    assert running.predict(pictures.row_png(4)).json()["predictions"][0]["label"] == "4"
    assert running.client.get("/v2/models/digits/ready").status_code == 200
    assert "cannot be read" not in running.text


@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/1", "/predictions/digits/1.0"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_picture_is_answered_with_the_probabilities_of_five_labels(running: Service, method: str, path: str) -> None:
    answer = running.client.request(method, path, content=pictures.row_png(7))

    probabilities = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert next(iter(probabilities)) == "7"
    assert len(probabilities) == 5
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    assert probabilities["7"] == pytest.approx(1.0, abs=1e-3)


def test_a_form_with_the_file_data_is_taken_as_curl_sends_it(running: Service) -> None:
    files = {"data": ("seven.png", pictures.row_png(7), "image/png")}

    answer = running.client.post("/predictions/digits", files=files)

    assert next(iter(answer.json())) == "7"


@pytest.mark.parametrize(
    ("path", "content", "code", "kind"),
    [
        ("/predictions/nobody", b"", 404, "ModelNotFoundException"),
        ("/predictions/digits/9.0", b"", 404, "ModelVersionNotFoundException"),
        ("/predictions/digits", b"no picture", 400, "BadRequestException"),
        ("/predictions", b"", 404, "ResourceNotFoundException"),
    ],
    ids=["no such model", "no such version", "no picture", "no such path"],
)
def test_what_is_refused_has_a_code_a_type_and_a_message(
    running: Service, path: str, content: bytes, code: int, kind: str
) -> None:
    answer = running.client.post(path, content=content)

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["type"]) == (code, code, kind)
    assert "Given: " in problem["message"]
    assert problem.keys() == {"code", "type", "message"}


def test_its_ping_says_whether_the_service_is_healthy(running: Service) -> None:
    answer = running.client.get("/ping")

    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})


@pytest.mark.parametrize(
    ("problem", "code", "kind"),
    [
        (QueueFull("full", retry_after_seconds=3), 429, "ServiceUnavailableException"),
        (Unavailable("starting"), 503, "ServiceUnavailableException"),
        (BadRequest("not a picture"), 400, "BadRequestException"),
        (Problem("a bug"), 500, "InternalServerException"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Problem) else str(given),
)
def test_each_problem_has_the_type_that_torchserve_would_give_it(problem: Problem, code: int, kind: str) -> None:
    answer = error_response(problem)

    assert (answer.status, orjson.loads(answer.body)) == (
        code,
        {"code": code, "type": kind, "message": problem.detail},
    )
    assert dict(answer.headers).keys() == {name.encode() for name in problem.headers}


@pytest.mark.parametrize(("given", "meant"), [("2.0", "2"), ("2", "2"), ("1.5", "1.5"), ("canary", "canary")])
def test_a_version_with_a_zero_behind_its_point_is_the_whole_number(given: str, meant: str) -> None:
    asked = request("POST", f"/predictions/digits/{given}")
    asked.parameters = {"model": "digits", "version": given}

    assert TorchServe.query(cast("TorchServe", None), asked).version == meant


def test_without_the_setting_there_is_no_such_path(service: Service) -> None:
    assert service.client.post("/predictions/rows", content=pictures.row_png(1)).status_code == 404
