from __future__ import annotations

import collections
import concurrent.futures
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.auth import ApiKeyAuth
from service.api.keys import SCOPES, Keys, make
from service.api.open_inference.grpc.schema import SERVICE
from service.api.quotas import Quotas
from service.http.messages import Request
from tests import pictures
from tests.running import Service, serving
from tests.waiting import wait_until

KEY, LINE = make("ci", frozenset({"predict"}))
LIMITED_KEY, LIMITED_LINE = make("limited", frozenset({"predict"}), requests=4, images=5)
ADMIN_KEY, ADMIN_LINE = make("admin", frozenset({"admin"}))
FEEDBACK_KEY, FEEDBACK_LINE = make("labels", frozenset({"feedback"}))
ALONE = {"predict": KEY, "feedback": FEEDBACK_KEY, "admin": ADMIN_KEY}
"""A key of each scope that has no other."""


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{LINE}\n{ADMIN_LINE}\n{FEEDBACK_LINE}\n{LIMITED_LINE}\n")
    return path


@pytest.fixture(scope="module")
def guarded(registry: Path, keys_file: Path) -> Iterator[Service]:
    options = ("--default-model", "rows", "--http-processes", "2", "--api-keys-file", str(keys_file))
    with serving(registry, *options) as service:
        yield service


def status(service: Service, headers: dict[str, str]) -> int:
    content = pictures.row_png(1)
    return service.client.post(
        "/predict", content=content, headers={"content-type": "image/png", **headers}
    ).status_code


def test_a_known_key_lets_in_as_a_bearer_or_as_x_api_key(guarded: Service) -> None:
    assert status(guarded, {"authorization": f"Bearer {KEY}"}) == 200
    assert status(guarded, {"authorization": f"bearer {KEY}"}) == 200
    assert status(guarded, {"x-api-key": KEY}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer nope"},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": "é"},
    ],
)
def test_without_a_known_key_every_path_but_the_probes_is_401_and_tells_nothing(
    guarded: Service, headers: dict[str, str]
) -> None:
    encoded = {name: value.encode() for name, value in headers.items()}
    for method, path in (
        ("POST", "/predict"),
        ("GET", "/models"),
        ("GET", "/openapi.json"),
        ("GET", "/v2"),
        ("GET", "/nope"),
    ):
        answer = guarded.client.request(method, path, headers=encoded)  # type: ignore[arg-type]

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "rows" not in answer.text


def test_a_key_without_the_scope_is_403(guarded: Service) -> None:
    assert status(guarded, {"authorization": f"Bearer {ADMIN_KEY}"}) == 403


def test_a_key_for_admin_alone_may_look_and_change_but_not_predict(guarded: Service) -> None:
    headers = {"x-api-key": ADMIN_KEY}

    assert guarded.client.get("/models", headers=headers).status_code == 200
    assert guarded.client.get("/models/rows/1/card.md", headers=headers).status_code == 404  # it has none
    assert guarded.client.post("/v2/repository/index", headers=headers).status_code == 200
    assert guarded.client.post("/v2/repository/models/nope/load", headers=headers).status_code == 404
    assert guarded.client.post("/v2/models/rows/infer", headers=headers).status_code == 403
    for path in ("/v2/repository/models/rows/load", "/v2/repository/models/rows/unload", "/models/rows/promote"):
        refused = guarded.client.post(path, headers={"x-api-key": KEY})
        assert (refused.status_code, "the key must have the scope admin" in refused.text) == (403, True)


def documented_scopes() -> dict[str, set[str]]:
    """Which scopes open each path, as the table in docs/api.md has it; "..." is the end of any path."""
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    header, _, *rows = re.findall(r"^\|(.*)\|$", text.partition("### Scopes")[2].partition("###")[0], re.M)
    scopes = re.findall(r"`(\w+)`", header)
    found: dict[str, set[str]] = {}
    for row in rows:
        paths, *cells = (cell.strip() for cell in row.split("|"))
        opens = {scope for scope, cell in zip(scopes, cells, strict=True) if cell == "yes"}
        found |= dict.fromkeys(re.findall(r"`(\w+ /\S+)`", paths), opens)
    return found


def test_each_scope_opens_what_the_table_of_scopes_says(guarded: Service) -> None:
    documented = documented_scopes()
    paths = guarded.client.get("/openapi.json", headers={"x-api-key": KEY}).json()["paths"]
    asked = [
        f"{method.upper()} {path}"
        for path, item in paths.items()
        for method, operation in item.items()
        if method != "parameters" and operation.get("security") != []
    ]

    for operation in [*asked, "GET /openapi.json"]:
        (opens,) = [
            opens
            for known, opens in documented.items()
            if operation == known or (known.endswith("...") and operation.startswith(known.removesuffix("...")))
        ]
        method, path = re.sub(r"\{\w+\}", "nope", operation).split()
        statuses = {
            scope: guarded.client.request(method, path, headers={"x-api-key": key}).status_code
            for scope, key in ALONE.items()
        }
        assert {scope for scope, status in statuses.items() if status != 403} == opens, operation
    assert ALONE.keys() == SCOPES


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("ServerMetadata", "/v2"),
        ("ModelReady", "/v2/models/rows/ready"),
        ("ModelMetadata", "/v2/models/rows"),
        ("ModelConfig", "/v2/models/rows/config"),
        ("ModelStatistics", "/v2/models/stats"),
        ("ModelInfer", "/v2/models/rows/infer"),
        ("RepositoryIndex", "/v2/repository/index"),
        ("RepositoryModelLoad", "/v2/repository/models/rows/load"),
        ("RepositoryModelUnload", "/v2/repository/models/rows/unload"),
    ],
)
def test_a_method_of_grpc_needs_the_scope_that_the_same_path_does(
    tmp_path: Path, keys_file: Path, method: str, path: str
) -> None:
    auth = ApiKeyAuth(Keys(str(keys_file)), Quotas(tmp_path))

    def opens(target: str) -> set[str]:
        asked = {scope: Request("POST", target, {b"x-api-key": key.encode()}, Caller()) for scope, key in ALONE.items()}
        return {scope for scope, request in asked.items() if auth.refusal(request) is None}

    assert opens(f"/{SERVICE}/{method}") == opens(path)


class Caller:
    disconnected = False


def test_a_quota_holds_over_all_processes_and_its_refusals_are_counted(guarded: Service) -> None:
    content, sent, began = pictures.row_png(1), 40, time.monotonic()

    def ask(number: int) -> httpx.Response:
        with httpx.Client() as client:  # a connection each, so that all processes get some
            files = (
                [("a", ("a.png", content)), ("b", ("b.png", content))] if number % 2 else [("a", ("a.png", content))]
            )
            return client.post(f"{guarded.url}/predict", files=files, headers={"x-api-key": LIMITED_KEY}, timeout=60)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(sent)))
    seconds = time.monotonic() - began

    statuses = collections.Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}
    assert 2 <= statuses[200] <= 1 + 4 * (seconds + 1)
    images = sum(len(answer.json()["predictions"]) for answer in answers if answer.status_code == 200)
    assert images <= 2 + 5 * (seconds + 1)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert "the key limited must keep to its quota a second, requests=4 images=5" in refused.json()["detail"]
    assert guarded.wait_for_metric(sent, "inference_key_requests_total", key="limited") == sent
    assert guarded.metric("inference_key_requests_total", key="limited", code="200") == statuses[200]
    assert guarded.metric("inference_request_failures_total", reason="quota") == statuses[429]


def test_probes_and_metrics_need_no_key(guarded: Service) -> None:
    for path in ("/livez", "/startupz", "/readyz", "/health", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert guarded.client.get(path).status_code == 200


def test_the_protocol_refuses_in_its_own_shape(guarded: Service) -> None:
    assert set(guarded.client.get("/v2/models/rows").json()) == {"error"}


def test_a_key_that_is_added_to_the_file_lets_in_without_a_restart(guarded: Service, keys_file: Path) -> None:
    key, line = make("new", frozenset({"predict"}))
    assert status(guarded, {"x-api-key": key}) == 401

    keys_file.write_text(f"{keys_file.read_text()}{line}\n")

    wait_until(lambda: status(guarded, {"x-api-key": key}) == 200, interval=0.1)
    assert status(guarded, {"x-api-key": KEY}) == 200
