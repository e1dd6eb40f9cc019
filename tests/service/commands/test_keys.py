"""The client and the commands against a service that asks for an API key, and the command that makes keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import main
from service.api.keys import Keys, make
from service.client import Client, NotAllowed
from tests import pictures
from tests.running import Service, serving

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


def test_a_key_is_shown_once_and_lets_in_until_it_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"

    codes = [main(["keys", "make", name, "--file", str(path)]) for name in ("ci", "deploy")]
    first, second = capsys.readouterr().out.split()
    codes.append(main(["keys", "remove", "ci", "--file", str(path)]))
    keys = Keys(path)

    assert codes == [0, 0, 0]
    assert first not in path.read_text()
    assert keys.find(first) is None
    assert keys.find(second).name == "deploy"  # type: ignore[union-attr]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_list_of_keys_says_whose_they_are_and_what_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quotas = ["--requests-per-second", "0.5", "--images-per-second", "100"]
    main(["keys", "make", "boss", "--scopes", "predict,admin", *quotas, "--file", str(tmp_path / "keys")])
    capsys.readouterr()

    assert main(["keys", "list", "--file", str(tmp_path / "keys")]) == 0
    assert re.fullmatch(
        r"name +scopes +sha256 +a second\nboss +admin,predict +[0-9a-f]{12} +requests=0.5 images=100\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize("what", ["requests", "images"])
def test_a_quota_of_nothing_is_refused_rather_than_no_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["keys", "make", "x", f"--{what}-per-second", "0", "--file", str(tmp_path / "keys")])

    assert exited.value.code == 2
    assert "must be a number of at least 0.001. Given: '0'" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (["make", "ci"], "the name of a new key must be new. Given: ci"),
        (["make", "two words"], "a name must be one word without '#'. Given: 'two words'"),
        (["make", ""], "a name must be one word without '#'. Given: ''"),
        (["remove", "nobody"], "the name must be one of ['ci'] in "),
    ],
    ids=" ".join,
)
def test_what_would_spoil_the_file_is_refused_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], detail: str
) -> None:
    (tmp_path / "keys").write_text(LINE)

    code = main(["keys", *arguments, "--file", str(tmp_path / "keys")])

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith(f"error: {detail}")
    assert (tmp_path / "keys").read_text() == LINE


def test_a_file_that_is_not_there_has_no_keys_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--file", str(tmp_path / "keys")]) == 1
    assert "must be readable. Given: " in capsys.readouterr().err


def test_what_people_wrote_between_the_keys_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who may\n{LINE}")
    main(["keys", "make", "new", "--file", str(path)])

    main(["keys", "remove", "ci", "--file", str(path)])

    capsys.readouterr()
    assert path.read_text().startswith("# who may\nnew predict ")


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(LINE)
    (tmp_path / "keys").symlink_to("real")

    main(["keys", "remove", "ci", "--file", str(tmp_path / "keys")])

    assert (tmp_path / "keys").is_symlink()
    assert (tmp_path / "real").read_text() == "none\n"
