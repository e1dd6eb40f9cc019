from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.keys import make
from tests import pictures
from tests.running import Service, serving
from tests.waiting import wait_until

KEY, LINE = make("ci", frozenset({"predict"}))
ADMIN_KEY, ADMIN_LINE = make("admin", frozenset({"admin"}))


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{LINE}\n{ADMIN_LINE}\n")
    return path


@pytest.fixture(scope="module")
def guarded(registry: Path, keys_file: Path) -> Iterator[Service]:
    with serving(registry, "--default-model", "rows", "--api-keys-file", str(keys_file)) as service:
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
