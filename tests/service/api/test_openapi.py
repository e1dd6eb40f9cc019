"""The OpenAPI document is true: a fuzzer that reads it finds no answer that it does not promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api import openapi
from service.api.body import RAW_TYPES
from service.api.request import PRIORITIES
from service.problems import Problem
from service.settings import Settings
from tests.conftest import ROOT
from tests.registries import DISTRIBUTIONS, SCORED, ScoredRows, publish
from tests.running import Service, serving

SCHEMATHESIS = shutil.which("schemathesis", path=str(Path(sys.executable).parent))


def problem_statuses(kind: type[Problem] = Problem) -> set[str]:
    """The statuses of `kind` and of everything derived from it."""
    return {str(kind.status)}.union(*map(problem_statuses, kind.__subclasses__()))


def references(value: Any) -> Iterator[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_path_is_documented(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]

    assert {"/predict", "/models", "/livez", "/readyz", "/metrics", "/v2/models/{model}/infer"} <= set(paths)
    assert {"/startupz", "/health"} <= set(paths)


OF_HTTP = {"405", "414", "417", "431", "501", "505"}
"""What any request may be refused with before its path is known, or because of its method."""


def test_the_version_the_limits_and_the_choices_are_those_of_the_code() -> None:
    found = openapi.document("1.2.3", Settings(max_images=7, max_body_bytes=4096))

    body = found["paths"]["/predict"]["post"]["requestBody"]
    components = found["components"]
    assert found["info"]["version"] == "1.2.3"
    assert body["description"] == "At most 4,096 bytes and 7 inputs."
    assert set(body["content"]) >= RAW_TYPES
    assert components["schemas"]["Images"]["properties"]["images"]["maxItems"] == 7
    assert components["parameters"]["priority"]["schema"]["enum"] == list(PRIORITIES)


def test_every_problem_has_a_documented_status_in_the_shape_of_its_protocol() -> None:
    paths = openapi.document("0", Settings())["paths"]

    for path, shape in (("/predict", "Problem"), ("/v2/models/{model}/infer", "ProtocolError")):
        responses = paths[path]["post"]["responses"]
        assert problem_statuses() - OF_HTTP - {"409"} <= set(responses)
        assert [*references(responses["429"])] == [f"#/components/schemas/{shape}"]


def test_whatever_asks_for_a_key_may_be_refused_for_its_quota() -> None:
    paths = openapi.document("0", Settings())["paths"]

    for item in paths.values():
        for operation in (item[method] for method in ("get", "post") if method in item):
            assert ("401" in operation["responses"]) <= ("429" in operation["responses"])
    assert "409" in paths["/models/{name}/promote"]["post"]["responses"]


def test_every_reference_has_a_target() -> None:
    found = openapi.document("0", Settings())

    for reference in references(found):
        _, _, kind, name = reference.split("/")
        assert name in found["components"][kind]


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[Service]:
    """A service that uses what is optional: scores, sets, drift, feedback and a model without them."""
    registry = tmp_path / "registry"
    publish(registry, module=ScoredRows(), **SCORED, distributions=DISTRIBUTIONS)
    publish(registry, "unscored")
    with serving(registry, "--default-model", "rows", "--feedback-predictions", "1000") as running:
        yield running


@pytest.mark.skipif(SCHEMATHESIS is None, reason="needs schemathesis")
def test_a_fuzzer_finds_no_undocumented_status_no_schema_violation_and_no_bug(
    everything: Service, tmp_path: Path
) -> None:
    # make fuzz does the same with thousands of cases.
    assert SCHEMATHESIS
    command = [SCHEMATHESIS, "--config-file", str(ROOT / "tests" / "schemathesis.toml"), "run"]
    options = ["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--generation-deterministic"]

    result = subprocess.run(
        [*command, f"{everything.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert result.returncode == 0, result.stdout[-5000:]
