"""The OpenAPI document is true: a fuzzer that reads it finds no answer that it does not promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.running import Service

SCHEMATHESIS = shutil.which("schemathesis", path=str(Path(sys.executable).parent))


def test_every_path_is_documented(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]

    assert {"/predict", "/models", "/livez", "/readyz", "/health", "/metrics", "/v2/models/{model}/infer"} <= set(paths)


@pytest.mark.skipif(SCHEMATHESIS is None, reason="needs schemathesis")
def test_a_fuzzer_finds_no_undocumented_status_no_schema_violation_and_no_bug(service: Service, tmp_path: Path) -> None:
    # make fuzz does the same with thousands of cases.
    assert SCHEMATHESIS
    command = [SCHEMATHESIS, "--config-file", str(ROOT / "tests" / "schemathesis.toml"), "run"]
    options = ["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--generation-deterministic"]

    result = subprocess.run(
        [*command, f"{service.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert result.returncode == 0, result.stdout[-5000:]
