"""Settings come from options first, then the environment, then defaults; whatever is out of bounds is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service import settings
from service.settings import Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SERVICE_"):
            monkeypatch.delenv(name)


def test_the_defaults_serve_the_shipped_model_on_this_machine_alone() -> None:
    default = Settings()

    assert (default.host, default.port, default.registry, default.default_model) == (
        "127.0.0.1",
        8000,
        "models",
        "mnist",
    )


def test_the_environment_sets_what_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "9001")
    monkeypatch.setenv("SERVICE_DEFAULT_MODEL", "digits")

    given = Settings(port="9002")

    assert (given.port, given.default_model) == (9002, "digits")


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (16, 15), (384, 256)])
def test_each_core_but_one_has_a_process_that_speaks_http(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)

    assert Settings().http_processes == processes


def test_without_affinity_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert settings.usable_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("device", "tpu"),
        ("http_processes", 0),
        ("threads", -1),
        ("max_batch_size", 0),
        ("max_queue", 0),
        ("timeout_seconds", 0),
        ("max_body_bytes", 0),
        ("max_pixels", 0),
        ("max_images", 0),
        ("startup_seconds", 0),
        ("hang_seconds", -1),
        ("max_failed_starts", 0),
        ("drain_seconds", -1),
        ("shutdown_seconds", 0),
        ("shutdown_seconds", "inf"),
        ("trial_seconds", 86_401),
        ("log_requests", "inf"),
        ("log_level", "loud"),
        ("no_such_setting", 1),
    ],
)
def test_a_setting_out_of_bounds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


def test_a_bad_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_MAX_BATCH_SIZE", "many")

    with pytest.raises(ValidationError, match="max_batch_size"):
        Settings()


def test_a_variable_that_is_almost_a_setting_is_found_with_the_setting() -> None:
    environment = ["SERVICE_PORT", "SERVICE_MAX_BATCHSIZE", "SERVICE_NAME", "SERVICE_URL", "PATH"]

    assert settings.ignored_variables(environment) == [
        "SERVICE_MAX_BATCHSIZE (SERVICE_MAX_BATCH_SIZE?)",
        "SERVICE_NAME",
    ]


def test_settings_do_not_change_once_they_are_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
    ],
)
def test_the_cores_to_use_are_those_of_the_affinity_within_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert settings.usable_cores(tmp_path / "cpu.max") == cores
    assert settings.usable_cores(tmp_path / "none") == 8
