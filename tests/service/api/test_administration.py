"""An administrator loads and unloads models with tritonclient, and promotes and rolls back versions."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fsspec.implementations.local import LocalFileSystem

from service.api.administration import Administration
from service.api.keys import make
from service.contract.registry import Registry
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel, ServedModels
from service.problems import Conflict, DeadlineExceeded
from service.rollout.unloaded import Unloaded
from service.settings import Settings
from tests import pictures
from tests.registries import publish
from tests.running import Service, serving
from tests.service.api.asking import request
from tests.waiting import wait_until

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")

KEY, LINE = make("boss", frozenset({"predict", "admin"}))
HEADERS = {"x-api-key": KEY}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    publish(root, "rows")
    publish(root, "other")
    return root


@pytest.fixture(scope="module")
def service(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that looks at its registry once an hour, unless it is asked to."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{LINE}\n")
    options = ("--default-model", "rows", "--http-processes", "1", "--poll-seconds", "3600")
    with serving(root, *options, "--api-keys-file", str(keys)) as service:
        service.client.headers.update(HEADERS)
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as connected:
        yield connected


def states(client: Any) -> dict[str, str]:
    return {f"{one['name']}@{one['version']}": one["state"] for one in client.get_model_repository_index(HEADERS)}


def test_an_unloaded_model_is_not_served_and_the_default_is_missed_until_it_is_loaded(
    service: Service, client: Any
) -> None:
    client.unload_model("rows", headers=HEADERS)

    assert states(client) == {"rows@1": "UNAVAILABLE", "other@1": "READY"}
    refused = service.predict(pictures.row_png(1))
    assert (refused.status_code, "one of ['other']" in refused.json()["detail"]) == (404, True)
    assert service.client.get("/readyz").json()["missing"] == {"rows": "unloaded"}
    with pytest.raises(triton.InferenceServerException, match="other is the last; stop the service instead"):
        client.unload_model("other", headers=HEADERS)

    client.load_model("rows", headers=HEADERS)

    assert states(client) == {"rows@1": "READY", "other@1": "READY"}
    assert service.predict(pictures.row_png(1)).json()["model"] == "rows"


def test_a_load_brings_what_was_published_since_the_last_look(root: Path, client: Any) -> None:
    publish(root, "other")
    publish(root, "third")

    client.load_model("other", headers=HEADERS)
    client.load_model("third", headers=HEADERS)

    assert client.is_model_ready("other", "2", headers=HEADERS)
    assert client.is_model_ready("third", headers=HEADERS)


def test_a_load_of_what_cannot_serve_says_why(root: Path, client: Any) -> None:
    publish(root, "broken", artifact=b"no model")

    with pytest.raises(triton.InferenceServerException, match=r"broken@1 must be fit to serve\. Given: it was refused"):
        client.load_model("broken", headers=HEADERS)
    with pytest.raises(triton.InferenceServerException, match="model must be one of"):
        client.load_model("nope", headers=HEADERS)
    with pytest.raises(triton.InferenceServerException, match="model must be one of"):
        client.unload_model("nope", headers=HEADERS)


def test_an_unload_that_no_worker_hears_of_is_answered_at_its_deadline(tmp_path: Path) -> None:
    dispatcher: Any = SimpleNamespace(served=ServedModels("rows"))
    models = [ServedModel(publish(tmp_path, name), default=True) for name in ("rows", "other")]
    dispatcher.served.replace(models)
    settings = Settings(registry=str(tmp_path), startup_seconds=0.2)
    administration = Administration(dispatcher, Unloaded(tmp_path), settings)

    with pytest.raises(DeadlineExceeded, match=r"other must be unloaded within 0\.2 s\. Given: it is still served"):
        asyncio.run(asyncio.wait_for(administration.unload("other"), 30))


def test_a_version_is_promoted_and_rolled_back(root: Path, service: Service) -> None:
    publish(root, "rows")
    publish(root, "rows")
    Registry(root).set_alias("rows", "canary", 3)

    def promote(version: int | str) -> httpx.Response:
        return service.client.post("/models/rows/promote", json={"version": version})

    def is_served(version: int) -> bool:
        return bool(service.predict(pictures.row_png(1)).json()["version"] == version)

    first = promote(2)
    wait_until(lambda: is_served(2))
    second = promote("canary")
    wait_until(lambda: is_served(3))
    back = service.client.post("/models/rows/rollback")
    wait_until(lambda: is_served(2))

    assert first.json()["production"] == 2
    assert second.json()["production"] == 3
    assert back.json()["production"] == 2
    assert Registry(root).resolve("rows") == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/models/rows/promote", b'{"version": 99}', 404, "version of rows must be one of"),
        ("/models/nope/promote", b'{"version": 1}', 404, "model must be one of"),
        ("/models/rows/promote", b'{"version": true}', 422, 'the body must be {"version": a number or an alias}'),
        ("/models/rows/promote", b"", 400, "the body must be JSON"),
        ("/models/rows/rollback", b"[2]", 422, "the body must be empty or a JSON object. Given: [2]"),
        ("/models/rows/rollback", b"2.", 400, "the body must be JSON"),
    ],
)
def test_what_cannot_be_promoted_is_refused(service: Service, path: str, body: bytes, status: int, detail: str) -> None:
    answer = service.client.post(path, content=body)

    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text


def test_a_model_of_one_version_is_not_rolled_back(root: Path, service: Service) -> None:
    publish(root, "lonely")

    answer = service.client.post("/models/lonely/rollback")

    assert answer.status_code == 404
    assert "a rollback of lonely must have a version to return to" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["index", "models/rows/load", "models/rows/unload"])
@pytest.mark.parametrize("body", [b"-7928", b"[[], {}]", b'"rows"', b"null"])
def test_a_repository_is_told_with_an_object_or_nothing(service: Service, path: str, body: bytes) -> None:
    answer = service.client.post(f"/v2/repository/{path}", content=body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith("the body must be empty or a JSON object. Given: ")
    assert service.predict(pictures.row_png(1)).json()["model"] == "rows"


def test_an_index_of_what_is_ready_is_asked_for_with_true(service: Service) -> None:
    answer = service.client.post("/v2/repository/index", json={"ready": "yes"})

    assert (answer.status_code, answer.json()) == (422, {"error": "ready must be true or false. Given: 'yes'"})


def test_a_registry_that_is_read_only_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "rows")
    dispatcher = Dispatcher([], default_model="rows", max_batch_size=1, max_queue=1)
    administration = Administration(dispatcher, Unloaded(tmp_path), Settings(registry=str(tmp_path)))
    (promote,) = (route for route in administration.routes() if "promote" in route.path)
    asked = request("POST", "/models/rows/promote")
    asked.parameters, asked.body, asked.max_body_bytes = {"name": "rows"}, b'{"version": 1}', 100

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LocalFileSystem, "makedirs", refuse)

    with pytest.raises(Conflict, match="This service may only read the registry; promote where it may be written"):
        asyncio.run(promote.answer(asked))  # type: ignore[arg-type]
