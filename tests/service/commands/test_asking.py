"""The commands that ask a service once: predict, models, health. In process, against the real service."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from tests import pictures
from tests.running import Service

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the service; gives exit code, output and errors."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--url", service.url])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{class_id}.png" for class_id in range(3)]
    for class_id, path in enumerate(paths):
        path.write_bytes(pictures.row_png(class_id))
    return paths


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    (tmp_path / "bad.png").write_bytes(b"hello")
    return tmp_path / "bad.png"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# predict


def test_predictions_are_a_table_in_the_order_of_the_files(run: Run, files: list[Path]) -> None:
    code, out, err = run("predict", *files[::-1])

    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["file", "class", "probability", "label"]
    assert [(line[0], line[1], line[3]) for line in lines[1:]] == [(str(files[i]), str(i), str(i)) for i in (2, 1, 0)]
    assert lines[1][2].endswith("%")


def test_top_k_stands_beside_the_label(run: Run, files: list[Path]) -> None:
    _, out, _ = run("predict", files[2], "--top-k", 3)

    assert "2, then 0 0.00%, 1 0.00%" in out


def test_json_is_an_object_a_line(run: Run, files: list[Path]) -> None:
    code, out, _ = run("predict", *files, "--json", "--top-k", 2, "--probabilities", "--model", "rows", "--version", 1)

    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [document["path"] for document in documents] == [str(path) for path in files]
    assert documents[1]["label"] == "1"
    assert [one["label"] for one in documents[1]["top_k"]] == ["1", "0"]
    assert len(documents[1]["probabilities"]) == 10
    assert (documents[1]["model"], documents[1]["version"]) == ("rows", 1)


def test_json_holds_no_more_than_was_asked_for(run: Run, files: list[Path]) -> None:
    _, out, _ = run("predict", files[0], "--json")

    assert set(json.loads(out)) == {
        *("path", "class_id", "label", "probability", "model", "version", "request_id", "index")
    }


def test_a_dash_reads_standard_input(run: Run, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pictures.row_png(9))))

    code, out, _ = run("predict", files[0], "-", "--json")

    assert code == 0
    assert [json.loads(line)["class_id"] for line in out.splitlines()] == [0, 9]


def test_files_that_fail_are_named_beside_those_that_do_not(run: Run, files: list[Path], bad_file: Path) -> None:
    table, lines = (run("predict", bad_file, files[1], "missing.png", *more) for more in ([], ["--json"]))

    documents = [json.loads(line) for line in lines[1].splitlines()]
    assert (table[0], lines[0]) == (1, 1)
    assert "error: the image must be one of PNG" in table[1]
    assert documents[0]["error"]["status"] == 400
    assert documents[1]["class_id"] == 1
    assert documents[2] == {
        "path": "missing.png",
        "error": {"detail": "the file must be readable. Given: missing.png: No such file or directory"},
    }


def test_a_model_that_does_not_exist_is_an_error_in_the_services_words(run: Run, files: list[Path]) -> None:
    code, out, err = run("predict", *files, "--model", "nope")

    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "nope" in err
    assert "status 404" in err


@pytest.mark.parametrize(("no_color", "is_bold"), [("", True), ("1", False)])
def test_a_heading_is_bold_on_a_terminal_unless_its_owner_minds(
    service: Service, files: list[Path], monkeypatch: pytest.MonkeyPatch, no_color: str, is_bold: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("NO_COLOR", no_color)

    main(["predict", str(files[0]), "--url", service.url])

    assert ("\033[" in terminal.getvalue()) == is_bold


def test_a_name_cannot_write_over_a_terminal(run: Run, files: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "a\n\x1b[2Jb.png"
    odd.write_bytes(files[1].read_bytes())

    _, out, _ = run("predict", odd)

    assert len(out.splitlines()) == 2
    assert r"a\n\x1b[2Jb.png  1 " in out


def test_there_is_no_colour_in_a_pipe(run: Run, files: list[Path], bad_file: Path) -> None:
    assert "\033" not in "".join(map(str, run("predict", *files, bad_file)))


# models


def test_models_are_a_table_of_what_is_served(run: Run) -> None:
    code, out, _ = run("models")

    lines = out.splitlines()
    assert code == 0
    assert [line.split()[:2] for line in lines] == [["model", "version"], ["photos", "1"], ["rows", "1"], ["sign", "1"]]
    assert "by default" in lines[2]
    assert "1x28x28 grey" in lines[2]
    assert "10: 0, 1, 2, ..." in lines[2]
    assert "by name" in lines[3]
    assert "2: negative, positive" in lines[3]


def test_models_are_json_too(run: Run) -> None:
    code, out, _ = run("models", "--json")

    document = json.loads(out)
    assert code == 0
    assert document["default"] == "rows"
    assert [model["name"] for model in document["models"]] == ["photos", "rows", "sign"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(service: Service, unbuffered: str) -> None:
    command = [sys.executable, "-m", "service", "models", "--url", service.url]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONUNBUFFERED": unbuffered}}

    with subprocess.Popen(command, **pipe) as process:  # type: ignore[call-overload]
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (1, b"")


# health


def test_health_of_a_ready_service_is_zero(run: Run) -> None:
    assert run("health") == (0, "ready: photos@1, rows@1, sign@1\n", "")


def test_health_of_no_service_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["health", "--url", "http://127.0.0.1:1"])

    assert code == 1
    assert capsys.readouterr().err.startswith("not ready: http://127.0.0.1:1 must answer as the service does. Given: ")
