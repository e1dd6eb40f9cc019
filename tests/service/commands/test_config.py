"""The effective configuration: options before the environment before defaults, and nothing that is secret."""

from __future__ import annotations

import json

import pytest

from service.__main__ import main
from service.settings import Settings


def test_each_setting_is_shown_with_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE_PORT", "9001")
    monkeypatch.setenv("SERVICE_MAX_QUEUE", "5")

    code = main(["config", "--max-queue", "7"])

    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert code == 0
    assert rows["port"] == ["9001", "environment"]
    assert rows["max_queue"] == ["7", "option"]
    assert rows["timeout_seconds"] == ["10.0", "default"]
    assert rows["api_keys_file"] == ["default"]
    assert rows.keys() == {"setting", *Settings.model_fields}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/models", "s3://bucket/models"),
        ("s3://user:secret@bucket/models", "s3://***@bucket/models"),
        ("simplecache::https://secret@host/models?token=secret", "simplecache::https://***@host/models?***"),
    ],
)
def test_what_is_secret_in_a_url_is_left_out(capsys: pytest.CaptureFixture[str], url: str, shown: str) -> None:
    code = main(["config", "--json", "--registry", url, "--otlp-endpoint", url])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (document["registry"], document["otlp_endpoint"]) == (shown, shown)
    assert document["max_batch_size"] == 128


def test_a_wrong_setting_is_refused_as_serve_refuses_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE_PORT", "-1")

    assert main(["config"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("SERVICE_PORT: ")  # which is where it was given
    assert main(["config", "--port", "-2"]) == 2
    assert capsys.readouterr().err.startswith("--port: ")


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SERVICE_PROT", "9000")

    assert main(["config"]) == 0
    assert "ignored: SERVICE_PROT (SERVICE_PORT?)" in capsys.readouterr().err
