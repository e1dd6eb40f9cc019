"""The command line as a whole: which command runs, what help says, and how wrong usage is refused."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.__main__ import main
from service.commands import COMMANDS, config, serve
from service.processes import server
from service.settings import Settings
from tests.preloaded import Forked

TAUGHT = [name for name in COMMANDS if name != "serve"]
ASKING = [name for name in TAUGHT if name not in ("config", "keys", "score", "seed")]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said of arguments that must be refused with exit code 2."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("serve",)])
def test_no_command_is_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    served: list[Settings] = []
    monkeypatch.setattr(serve, "serve", lambda settings: served.append(settings) or 0)  # type: ignore[func-returns-value]

    code = main([*arguments, "--port", "9001", "--registry", "here"])

    assert code == 0
    assert (served[0].port, served[0].registry) == (9001, "here")


def test_help_lists_the_commands_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)

    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)
    assert all(f"--{name.replace('_', '-')} " in text for name in Settings.model_fields)
    assert "[SERVICE_MODEL_DIR; none]" in " ".join(text.split())
    assert "None]" not in text


@pytest.mark.parametrize("name", TAUGHT)
def test_the_help_of_a_command_teaches_by_example_and_lists_exit_codes(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text = help_of(capsys, name)

    assert f"  python -m service {name}" in text
    assert "exit codes: 0 " in text
    assert ("--url URL" in text) == (name in ASKING)


def test_a_command_that_does_not_exist_is_refused_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = refusal(capsys, "predct", "x.png")

    assert text.startswith("error: the command must be one of serve, predict, ")
    assert "Given: predct." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "FILES must be at least one image, or - for standard input. Given: none"),
        (["predict", "-", "-"], "FILES must hold - at most once"),
        (["predict", "x", "--top", "3"], "options must be those of --help, in full. Given: --top 3"),
        (["predict", "x", "--top-k", "0"], "--top-k: must be a whole number of at least 1. Given: '0'"),
        (["predict", "x", "--top-k", "1.5"], "--top-k: must be a whole number of at least 1. Given: '1.5'"),
        (["predict", "x", "--probabilities"], "--probabilities must come with --json"),
        (["predict", "x", "--url", "localhost:80"], "--url: must be an address as http://host:8000. Given: 'localh"),
        (["predict", "x", "--url", "http://host:port"], "--url: must be an address"),
        (["health", "--url", "http://a..b"], "--url: must be an address"),
        (["models", "--url", "http://host/?model=mnist"], "--url: must be an address"),
        (["predict", "x", "--timeout-seconds", "0"], "--timeout-seconds: must be a number of at least 0.001"),
        (["predict", "x", "--retry-seconds", "nan"], "--retry-seconds: must be a number of at least 0. Given: 'nan'"),
        (["predict", "x", "--api-key-file", "nowhere"], "--api-key-file: must be a readable text file. Given: nowhere"),
        (["classify", "."], "--out must be given. Given: nothing"),
        (["classify", "nowhere", "--out", "x.csv"], "FOLDER must be a folder. Given: nowhere"),
        (["classify", "", "--out", "x.csv"], "FOLDER: must not be empty. Given: ''"),
        (["score", ".", "--model", "mnist", "--out", ""], "--out: must not be empty. Given: ''"),
        (["classify", ".", "--out", "x.txt"], "--out must end in .csv or .parquet. Given: x.txt"),
        (["health", "--api-key-file", "x"], "options must be those of --help, in full. Given: --api-key-file"),
        (["bench", "nowhere.png"], "FILES: must be readable files. Given: nowhere.png: No such file"),
        (["bench", "--path", "livez"], "--path: must be a path as /livez. Given: 'livez'"),
        (["bench", "--connections", "0"], "--connections: must be a whole number of at least 1. Given: '0'"),
        (["keys", "list"], "--file must be given, here or as SERVICE_API_KEYS_FILE. Given: neither"),
        (["keys", "make", "--file", "x"], "make must have the NAME of a key. Given: none"),
        (["keys", "list", "ci", "--file", "x"], "list takes no NAME. Given: ci"),
        (
            ["keys", "make", "ci", "--file", "x", "--scopes", "all"],
            "--scopes: must be of admin,feedback,predict, joined by",
        ),
        (["keys", "burn", "ci"], "ACTION: must be one of make, list, remove. Given: 'burn'"),
        (["--registr", "x"], "options must be those of --help, in full. Given: --registr x"),
        (["serve", "extra"], "Given: extra"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_refused_with_what_is_required_and_what_was_given(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    text = refusal(capsys, *arguments)

    assert text.startswith("error: ")
    assert message in text
    assert "Given: " in text
    assert re.search(r"See: python -m service (\w+ )?--help\n$", text)


def test_an_empty_key_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\nsecret\n")

    assert "must hold the key in its first line" in refusal(capsys, "models", "--api-key-file", str(tmp_path / "key"))

    (tmp_path / "key").write_bytes(b"sec\x01ret\n")

    assert "whose first cannot be one" in refusal(capsys, "models", "--api-key-file", str(tmp_path / "key"))


@pytest.mark.parametrize("arguments", [["predict", __file__], ["models"], ["bench", "--seconds", "1"]])
def test_a_service_that_is_not_there_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code = main([*arguments, "--url", "http://127.0.0.1:1", "--retry-seconds", "0"])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert re.fullmatch(r"error: http://127.0.0.1:1 must answer. Given: .*\n", captured.err)


def test_who_waits_for_a_service_is_told_so_at_once_and_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"a picture")
    one_by_one = ["--batch-size", "1", "--concurrency", "3", "--out", str(tmp_path / "out.csv")]

    main(["classify", str(tmp_path), *one_by_one, "--url", "http://127.0.0.1:1", "--retry-seconds", "0.3"])

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("http://127.0.0.1:1 must answer. Given: ")
    assert said[0].endswith(". Trying again for 0.3 s (--retry-seconds)")
    assert [line for line in said if "Trying again" in line] == said[:1]


def test_the_address_comes_from_the_environment_unless_it_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVICE_URL", raising=False)
    monkeypatch.setenv("SERVICE_PORT", "9002")
    by_port = help_of(capsys, "models")
    monkeypatch.setenv("SERVICE_URL", "http://elsewhere:9003")
    by_url = help_of(capsys, "models")

    assert "http://127.0.0.1:9002" in by_port
    assert "http://elsewhere:9003" in by_url


def test_an_address_in_the_environment_is_checked_as_an_option_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_URL", "elsewhere")

    assert "--url: must be an address as http://host:8000. Given: 'elsewhere'" in refusal(capsys, "health")


@pytest.mark.parametrize("command", [["config"], ["config", "--json"]])
def test_output_without_room_is_an_error_of_one_line(command: list[str]) -> None:
    code = f"import sys\nfrom service.__main__ import main\nsys.exit(main({command}))"

    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert ended.returncode == 1
    assert ended.stderr == f"error: the output must have room. Given: {os.strerror(errno.ENOSPC)}\n"


def test_health_loads_the_standard_library_alone() -> None:
    code = (
        "import sys\nfrom service.__main__ import main\n"
        "main(['health', '--url', 'http://127.0.0.1:1'])\nprint('\\n'.join(sys.modules))"
    )

    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = {name.split(".")[0] for name in fresh.stdout.split()}
    assert "http" in loaded
    assert not loaded & {"httpx", "pydantic", "pydantic_settings", "torch", "numpy", "PIL", "asyncio", "rich"}


def test_sigterm_ends_a_command_as_it_ends_others_though_a_container_has_it_as_its_first_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def wait(_: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)
        return 0

    monkeypatch.setattr(config, "main", wait)

    with pytest.raises(SystemExit, match="143"):
        main(["config"])

    assert unwound
    assert signal.getsignal(signal.SIGTERM) == before


def serve_until(moment: str, *arguments: str) -> int:
    """Serve with a stop signal, and another, at a moment of the start."""

    def come(*_: object, **__: object) -> None:
        os.write(2, b"here\n")
        time.sleep(30)

    match moment:
        case "the registry is looked for":
            serve.open_registry = come  # type: ignore[assignment,attr-defined]
        case "the service is built":
            server.Server = come  # type: ignore[assignment,misc]
    return main(["serve", *arguments])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["the registry is looked for", "the service is built"])
def test_a_signal_during_the_start_ends_it_quietly_and_leaves_no_folder(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = Forked(serve_until, moment, "--registry", "models", environment=environment)
    assert process.stderr
    with process.stderr as said:
        first = said.readline()
        for _ in range(2):
            process.send_signal(number)
        rest = said.read()

    assert (first, rest) == ("here\n", "")
    assert process.wait(30) == 0
    assert not list(tmp_path.iterdir())
