"""The service as it is installed, with the path of a request compiled: it answers what the sources answer.

`make test-compiled` runs all tests of this folder so.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.conftest import ROOT
from tests.end_to_end.test_serving import BAD_INPUT
from tests.processes import untraced
from tests.running import Service

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(os.environ.get("TEST_COMPILED")), reason="all tests beside it run on compiled modules"),
]

LISTED = re.findall(r'^    "(service/.*\.py)",$', (ROOT / "setup.py").read_text(), re.MULTILINE)
WAITS = (ast.Await, ast.Yield, ast.YieldFrom, ast.AsyncWith, ast.AsyncFor)

GRPC = "tests/service/api/open_inference/grpc/test_servicer.py"
WITHOUT_FAKES = (
    "tests/end_to_end/test_serving.py",
    "tests/end_to_end/test_wire.py",
    "tests/end_to_end/test_faults.py::test_sigterm_under_load_answers_all_that_was_accepted",
    "tests/service/api/test_auth.py",
    "tests/service/api/test_feedback.py",
    "tests/service/api/test_torchserve.py",
    "tests/service/api/open_inference/test_routes.py",
    "tests/service/engine/test_worker_link.py",
    f"{GRPC}::test_images_give_the_numbers_that_rest_gives",
    f"{GRPC}::test_a_wrong_request_is_refused_with_our_words",
)
"""Tests that take the most of a request's path, most of them through a service in processes of its own."""


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in untraced().items() if not name.startswith("PYTEST_")} | more


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this one with compiled modules beside the sources."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("service", "training", "tests", "docs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules", "*.so")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=folder, env=environment(ARGMAX_OPT_LEVEL="0"), capture_output=True, text=True, check=False
    )
    if "there is no C compiler" in done.stderr:
        pytest.skip("needs a C compiler and Python.h; apt-get install gcc python3-dev")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def compiled(checkout: Path, registry: Path) -> Iterator[Service]:
    service = Service(registry, "--default-model", "rows", "--http-processes", "2", checkout=checkout, traced=False)
    try:
        yield service.start()
        assert service.stop() == 0, service.text
    finally:
        service.close()


def test_every_module_of_the_list_is_compiled_and_the_start_says_how_many(checkout: Path, compiled: Service) -> None:
    files = {str(path.relative_to(checkout)).partition(".")[0] for path in (checkout / "service").rglob("*.so")}
    assert files == {*(name.removesuffix(".py") for name in LISTED), "service/native__mypyc"}
    assert f"(compiled modules: {len(LISTED)})" in compiled.text
    assert "changed since they were compiled" not in compiled.text


def test_no_module_of_the_list_awaits_or_yields_where_it_handles_an_error() -> None:
    # mypyc leaves that error set meanwhile: whatever fails elsewhere would have it as its context.
    for name in LISTED:
        handlers = [
            node for node in ast.walk(ast.parse((ROOT / name).read_text())) if isinstance(node, ast.ExceptHandler)
        ]
        handled = [node for handler in handlers for node in ast.walk(handler)]
        assert not [node.lineno for node in handled if isinstance(node, WAITS)], name


@pytest.mark.parametrize(
    ("imports", "variable", "ending"),
    [("pytest, tests", "", ".py"), ("pytest, tests", "1", ".so"), ("tests", "", ".so")],
    ids=["tests", "tests that are told otherwise", "benchmarks"],
)
def test_tests_run_sources_and_benchmarks_what_is_compiled(
    checkout: Path, imports: str, variable: str, ending: str
) -> None:
    code = "import service.http.reader as reader; print(reader.__file__)"
    started = f"import {imports}, subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"

    for program in (f"import {imports}; {code}", started):
        told = environment(TEST_COMPILED=variable, PYTHONPATH="")
        command = [sys.executable, "-c", program]
        shown = subprocess.run(command, cwd=checkout, env=told, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert shown.strip().endswith(ending)


def test_it_answers_what_the_sources_answer(service: Service, compiled: Service) -> None:
    images = [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": list(pictures.row(3).tobytes())}]
    requests = [
        *((pictures.row_png(row), "image/png", "?top_k=3&probabilities=true") for row in range(10)),
        *((body, kind, query) for body, kind, query, _ in BAD_INPUT.values()),
    ]

    for body, kind, query in requests:
        expected, answer = service.predict(body, kind, query), compiled.predict(body, kind, query)
        assert (answer.status_code, answer.json()) == (expected.status_code, expected.json())
    expected, answer = (
        each.client.post("/v2/models/rows/infer", content=json.dumps({"id": "1", "inputs": images}))
        for each in (service, compiled)
    )
    assert answer.status_code == 200
    assert answer.json() == expected.json()


def test_the_tests_of_the_service_pass_on_it(checkout: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *WITHOUT_FAKES]
    done = subprocess.run(
        command,
        cwd=checkout,
        env=environment(TEST_COMPILED="1", PYTHONPATH=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert done.returncode == 0, done.stdout


def test_a_source_that_changed_after_it_was_compiled_is_named_at_the_start(checkout: Path, registry: Path) -> None:
    changed = checkout / "service/http/reader.py"
    changed.touch()
    stale = Service(registry, checkout=checkout, traced=False)
    try:
        stale.start()
    finally:
        stale.close()

    assert "changed since they were compiled, and run as they were: service/http/reader.py; `make serve`" in stale.text
