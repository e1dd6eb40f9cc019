"""The client and the commands against a service that asks for an API key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import main
from service.client import Client, NotAllowed
from service.keys import make
from tests import pictures
from tests.service.conftest import Service, serving

KEY, LINE = make("ci", frozenset({"predict"}))


@pytest.fixture(scope="module")
def guarded(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{LINE}\n")
    with serving(registry, "--default-model", "rows", "--http-processes", "1", "--api-keys-file", str(keys)) as service:
        yield service


def test_a_client_with_the_key_is_let_in(guarded: Service) -> None:
    with Client(guarded.url, api_key=KEY) as client:
        assert client.predict(pictures.row_png(5)).class_id == 5


def test_a_client_without_it_is_told_what_is_required(guarded: Service) -> None:
    with Client(guarded.url) as client, pytest.raises(NotAllowed, match="must bear an API key") as refused:
        client.predict(pictures.row_png(5))

    assert refused.value.status == 401


def test_health_needs_no_key(guarded: Service) -> None:
    assert main(["health", "--url", guarded.url]) == 0


@pytest.mark.parametrize("command", ["predict", "models", "classify", "bench"])
def test_a_command_takes_the_key_from_a_file(
    guarded: Service, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "x.png").write_bytes(pictures.row_png(5))
    what = {
        "predict": [str(tmp_path / "x.png")],
        "models": [],
        "classify": [str(tmp_path), "--out", str(tmp_path / "out.csv")],
        "bench": ["--seconds", "0.2"],
    }
    arguments = [command, *what[command], "--url", guarded.url]

    codes = main(arguments), main([*arguments, "--api-key-file", str(tmp_path / "key")])

    assert codes == (1, 0)
    assert "must bear an API key" in capsys.readouterr().err
