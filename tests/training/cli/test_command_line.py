from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
from torchvision.datasets import MNIST

from service.contract.manifest import Metric
from service.contract.registry import Registry, RegistryError
from tests.processes import untraced
from tests.registries import publish
from training import job, pipeline
from training import recipe as recipe_module
from training.__main__ import main as start
from training.cli.command_line import main
from training.data.sources import SOURCES
from training.errors import TrainingError
from training.hyper_parameters import HyperParameters
from training.learning.trainer import train
from training.recipe import Recipe
from training.recipes import RECIPES
from training.settings import Settings

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own to run in, without settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRAINING_")]:
        monkeypatch.delenv(name)


def quick(*options: str) -> list[str]:
    return ["train", "neural_net", "--data", "digits", "--epochs", "1", "--device", "cpu", *options]


def test_list_shows_every_recipe_with_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["list"])

    shown = capsys.readouterr().out
    assert code == 0
    for column in ("recipe", "network", "data", "optimiser", "epochs", "expected"):
        assert column in shown
    for recipe in RECIPES.values():
        assert recipe.name in shown


def test_a_registry_without_models_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my-models").mkdir()

    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith("my-models holds no model. Name another registry")


def test_names_that_do_not_fit_the_terminal_are_shown_by_their_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "registry", "rows", classes=tuple("012345678ü"))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))

    code = main(["show", "rows", "--registry", str(tmp_path / "registry")])

    assert code == 0
    assert b"8, \\xfc" in shown.getvalue()


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as output:
        monkeypatch.setattr(sys, "stdout", output)

        assert main(quick()) == 1


def test_training_shows_an_epoch_a_line_then_the_result_and_how_to_publish(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(quick("--epochs", "2"))

    shown = capsys.readouterr().out
    assert code == 0
    assert re.search(r"^epoch 1/2  loss [\d.]+  accuracy +[\d.]+%  validation [\d.]+ +[\d.]+%  [\d.]+ s$", shown, re.M)
    for split, n in (("test", 364), ("held-out", 139)):
        assert re.search(
            rf"^digits/{split}: loss [\d.]+, accuracy [\d.]+% of {n} examples, calibration error [\d.]+% "
            r"\(chance: up to [\d.]+%\), at temperature 1 [\d.]+% \(chance: up to [\d.]+%\)$",
            shown,
            re.M,
        )
    assert re.search(r"^temperature [\d.]+$", shown, re.M)
    assert "--publish" in shown
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_a_loss_line_comes_every_so_many_batches_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(quick("--log-every", "2", "--limit", "5", "--held-out", "0"))

    shown = capsys.readouterr().out
    assert re.findall(r"^epoch 1/1  (.*?)  loss", shown, re.M) == ["iteration 2/5", "iteration 4/5", "5 iterations"]


def test_publishing_says_what_and_where_and_how_to_serve_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(quick("--publish", "--registry", "here"))

    shown = capsys.readouterr().out
    manifest = Registry(tmp_path / "here").manifest("neural_net-digits", 1)
    assert code == 0
    assert "published neural_net-digits@1" in shown
    assert "here/neural_net-digits/1/model.pt" in shown
    assert manifest.artifact.sha256 in shown
    assert f"{manifest.artifact.size_bytes:,} bytes" in shown
    assert "python -m service --registry here" in shown
    assert re.search(r"curl --data-binary @\S+/neural_net-digits-seed0-\w+/example\.png -H", shown)
    assert "/predict?model=neural_net-digits" in shown


def test_an_example_that_cannot_be_written_costs_its_hint_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", is_full)

    code = main(quick("--publish"))

    shown = capsys.readouterr().out
    assert code == 0
    assert "published neural_net-digits@1" in shown
    assert "ask it" not in shown


def test_a_model_is_published_under_the_name_that_is_asked_for(tmp_path: Path) -> None:
    main(quick("--publish", "--name", "mine"))

    assert Registry(tmp_path / "my-models").models() == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "resnet"], f"recipe must be one of {', '.join(RECIPES)}. Given: 'resnet'"),
        (["train", "neural_net", "--lr", "-1"], "lr: input should be greater than 0. Given: -1"),
        (["train", "neural_net", "--epochs", "many"], "epochs: input should be a valid integer"),
        (["train", "neural_net", "--device", "tpu"], "device: input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        (["train", "neural_net", "--momentum", "0.9"], "momentum must be given with the optimiser sgd or muon"),
        (["train", "neural_net", "--data", "imagenet"], f"data must be one of {', '.join(SOURCES)}"),
        (["train", "neural_net", "--learning-rate", "1"], "unrecognized arguments: --learning-rate 1"),
        (["train", "neural_net", "--epoch", "1"], "unrecognized arguments: --epoch 1"),
        (["train"], "the following arguments are required: RECIPE"),
        (["train", "neural_net", "--name", ""], "argument --name: it must have a character or more. Given: ''"),
        (["train", "neural_net", "--data", ""], "argument --data: it must have a character or more. Given: ''"),
        (["train", "cifar10", "--pretrained", ""], "argument --pretrained: it must have a character or more."),
        (["train", "neural_net", "--runs-dir", ""], "runs-dir: input should have a character or more. Given: "),
        (["train", "neural_net", "--sign", ""], "sign: input should have a character or more. Given: "),
        (["run", "neural_net", "--commit", ".."], "commit: string should match pattern"),
        (
            ["run", "neural_net", "--publish", "--registry", "http://x/y"],
            "registry must be a folder or a bucket, to publish to. Given: http://x/y, which can only be read",
        ),
        (["promote", "rows", ""], "VERSION must be a number or an alias. Given: ''"),
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments)

    said = capsys.readouterr()
    assert code == 2
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_cuda_where_there_is_none_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    code = main(quick("--device", "cuda"))

    assert code == 2
    assert "device must be one that this machine has: auto" in capsys.readouterr().err


def test_missing_data_is_a_message_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: MNIST) -> None:
        raise URLError("no network")

    monkeypatch.setattr(MNIST, "download", offline)

    code = main(["train", "neural_net", "--data-dir", "nowhere"])

    said = capsys.readouterr().err
    assert code == 1
    assert "nowhere/MNIST/raw" in said
    assert "--data-dir PATH" in said
    assert "go online" in said


def test_a_registry_that_fails_when_it_is_written_is_a_message_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise RegistryError("my-models must be writable. Given: a full disk")

    monkeypatch.setattr(Registry, "publish", fail)

    code = main(quick("--publish"))

    assert code == 1
    assert "error: my-models must be writable. Given: a full disk. Nothing was published." in capsys.readouterr().err


def test_a_model_that_the_gate_refuses_is_an_error_and_force_publishes_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(quick("--epochs", "5", "--publish"))
    worse = quick("--lr", "0.005", "--publish")
    capsys.readouterr()

    codes = main(worse), main([*worse, "--force"])

    said = capsys.readouterr()
    assert codes == (1, 0)
    assert "digits/test: loss" in said.out
    assert re.search(
        r"^error: accuracy on digits/held-out must be at most 0\.50% below the [\d.]+% of neural_net-digits@1 in "
        r"production\. Given: [\d.]+%\. Nothing was published\. To publish it all the same: .* --resume --force$",
        said.err,
        re.M,
    )
    assert "published neural_net-digits@2 by force, although accuracy on digits/held-out must be" in said.out


def test_the_tolerance_is_an_option() -> None:
    main(quick("--epochs", "5", "--publish"))

    assert main(quick("--lr", "0.005", "--publish", "--tolerance", "1")) == 0


def test_promote_rollback_models_and_show_tell_what_is_served(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for forced in (None, None, "it was bad"):
        publish(
            tmp_path / "my-models", forced=forced, metrics=[Metric(name="accuracy", value=0.9, data="a/test", n=10)]
        )

    codes = [
        main(line.split()) for line in ("promote rows 1", "promote rows 2", "rollback rows", "models", "show rows 3")
    ]

    said = capsys.readouterr().out
    assert codes == [0] * 5
    assert Registry(tmp_path / "my-models").aliases("rows") == {"production": 1}
    assert "production of rows is now 1 (before: 3)" in said
    assert "production of rows is now 2 (before: 1)" in said
    assert "production of rows is now 1 (before: 2)" in said
    assert re.search(r"rows +1 +yes +90\.00% on a/test +test ", said)
    assert re.search(r"rows +3 +90\.00% on a/test \(forced\)", said)
    assert re.search(r"^version +rows@3 *$", said, re.M)
    assert re.search(r"^forced +published although it was bad *$", said, re.M)


def test_show_without_a_version_shows_what_is_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    publish(tmp_path / "here")
    publish(tmp_path / "here")
    main(["promote", "rows", "1", "--registry", "here"])

    main(["show", "rows", "--registry", "here"])

    shown = capsys.readouterr().out
    assert re.search(r"^version +rows@1 *$", shown, re.M)
    assert re.search(r"^aliases +production *$", shown, re.M)


def test_a_manifest_that_does_not_parse_is_listed_as_such(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    publish(tmp_path / "my-models")
    (tmp_path / "my-models" / "rows" / "1" / "manifest.json").write_text("{")

    assert main(["models"]) == 0
    assert "does not parse" in capsys.readouterr().out


def test_a_damaged_alias_of_one_model_hides_no_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for model in ("broken", "rows"):
        publish(tmp_path / "my-models", model)
    (tmp_path / "my-models" / "broken" / "aliases").mkdir()
    (tmp_path / "my-models" / "broken" / "aliases" / "production").write_text("one")

    code = main(["models"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert any(re.match(r" *broken +1 +yes", line) for line in lines)
    assert any("aliases/production: an alias must hold a version number. Given: b'one'" in line for line in lines)
    assert any(re.match(r" *rows +1 +yes", line) for line in lines)


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    publish(tmp_path / "my-models", classes=("[draft] a", ":cat:", "[/b]", *"3456789"))

    code = main(["show", "rows"])

    assert code == 0
    assert "[draft] a, :cat:, [/b], 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("promote rows 9", "version of rows must be one of [1]. Given: 9"),
        ("promote columns 1", "model must be one of ['rows'] in my-models. Given: 'columns'"),
        ("rollback rows", "a rollback of rows must have a version to return to"),
        ("show rows staging", "version of rows must be one of [1]. Given: 'staging'"),
    ],
)
def test_what_is_not_in_the_registry_is_one_line_and_exit_code_1(
    command: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish(tmp_path / "my-models")

    code = main(command.split())

    said = capsys.readouterr().err
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert "published" not in said


def test_every_setting_and_hyper_parameter_is_an_option_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])

    shown = " ".join(capsys.readouterr().out.split())
    assert "(see keygen). Default: none" in shown
    for name, field in {**Settings.model_fields, **HyperParameters.model_fields}.items():
        assert f"--{name.replace('_', '-')}" in shown
        if name == "pretrained":  # the command line names a file
            continue
        assert field.description
        assert re.sub(r"\s", "", field.description) in re.sub(r"\s", "", shown)


@pytest.mark.parametrize("there", [True, False])
def test_cifar_trains_in_bfloat16_where_the_device_has_it_a_job_as_it_is_told(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(recipe: Recipe, hyper: HyperParameters, **_: object) -> NoReturn:
        seen.append(f"{recipe.name} {hyper.precision}")
        raise TrainingError("enough")

    monkeypatch.setattr(recipe_module, "has_bfloat16", lambda device: there)
    monkeypatch.setattr(pipeline, "run", noted)
    monkeypatch.setattr(job, "run", noted)

    for words in (
        ["train", "cifar10"],
        ["train", "cifar10", "--precision", "float32"],
        ["train", "mnist"],
        ["run", "cifar10"],
    ):
        assert main(words) == 1

    assert seen == [
        f"cifar10 {'bfloat16' if there else 'float32'}",
        "cifar10 float32",
        "mnist float32",
        "cifar10 float32",
    ]


def test_a_setting_comes_from_the_environment_and_an_option_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINING_REGISTRY", "from-environment")

    main(quick("--publish"))
    main(quick("--publish", "--registry", "from-option"))

    assert Registry(tmp_path / "from-environment").models() == ["neural_net-digits"]
    assert Registry(tmp_path / "from-option").models() == ["neural_net-digits"]


def test_ctrl_c_ends_with_a_message_exit_code_130_and_nothing_half_written(tmp_path: Path) -> None:
    folders = "--registry", str(tmp_path / "my-models"), "--runs-dir", str(tmp_path / "runs")
    arguments = quick("--epochs", "100000", "--publish", *folders)
    command = [sys.executable, "-m", "training", *arguments]
    # Untraced: a KeyboardInterrupt inside the coverage's own code leaves its lock locked, and the process hangs.
    with subprocess.Popen(
        command, cwd=ROOT, env=untraced(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline().startswith("epoch")

        training.send_signal(signal.SIGINT)
        _, said = training.communicate(timeout=30)

    assert training.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert Registry(tmp_path / "my-models").models() == []


def test_a_command_that_is_running_already_is_refused_and_harms_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[int] = []

    def twice(*arguments: Any, **options: Any) -> Any:
        if not second:
            second.append(main(quick("--resume")))
        return train(*arguments, **options)

    monkeypatch.setattr(pipeline, "train", twice)
    code = main(quick())

    assert (code, second) == (0, [1])
    assert re.search(
        r"^error: a run must be alone in its folder\. Given: \S+/neural_net-digits-seed0-\w+, where another process "
        r"trains the same\. Wait for it to end, or name another folder with --runs-dir\.$",
        capsys.readouterr().err,
        re.MULTILINE,
    )


@pytest.fixture
def own_sigterm() -> Iterator[None]:
    """Whatever a test does to the handler of SIGTERM is undone."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_sigterm")
def test_ctrl_c_during_the_imports_which_take_seconds_is_a_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        @staticmethod
        def find_spec(*_: object) -> NoReturn:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "training.cli.command_line")
    monkeypatch.setattr(sys, "meta_path", [Interrupted])

    assert start() == 130
    assert capsys.readouterr().err == "\nInterrupted: nothing was begun.\n"


@pytest.mark.usefixtures("own_sigterm")
def test_sigterm_ends_a_command_also_as_a_containers_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminated(Exception):
        pass

    def ended(code: int) -> NoReturn:
        raise Terminated(code)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the system does for a first process that has no handler
    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr("training.cli.command_line.main", lambda: signal.raise_signal(signal.SIGTERM))

    with pytest.raises(Terminated, match="143"):
        start()


def test_a_full_command_in_a_process_of_its_own_prints_no_warning(tmp_path: Path) -> None:
    arguments = quick("--publish", "--registry", str(tmp_path / "my-models"), "--runs-dir", str(tmp_path / "runs"))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.training.quickly", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"digits/train, 1,294 examples and 139 held out, on cpu \(.*\)\nNeuralNet\(\n(  .*\n)+\)\n", done.stderr
    )
