from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.contract.manifest import Metric
from service.contract.registry import CorruptVersionError, Registry, RegistryError
from tests.processes import untraced
from tests.registries import publish
from tests.training.conftest import Silent
from training import job, pipeline, recipes
from training.cli.command_line import main
from training.errors import OptionError, TrainingError, UnreachableError
from training.hyper_parameters import HyperParameters
from training.publishing.promotion import hold_production, promote_if_better
from training.publishing.quality_gate import accuracy_of
from training.publishing.report import Report
from training.recipes import find
from training.settings import Settings

ROOT = Path(__file__).parents[2]
NAME = "mine"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Report, "files", lambda self, manifest: {})


def run(folder: Path, hyper: HyperParameters, *, promote: bool = True, commit: str = "abc") -> job.Result:
    hyper = hyper.override({"held_out": 0.1})
    settings = Settings(
        registry=str(folder / "models"), runs_dir=folder / "runs", device="cpu", commit=commit, tolerance=1
    )
    return job.run(
        find("neural_net"),
        hyper,
        settings=settings,
        progress=Silent(),
        data="digits",
        publish_as=NAME,
        promote=promote,
    )


def accuracy(value: float, data: str = "digits/held-out") -> Metric:
    return Metric(name="accuracy", value=value, data=data, n=10)


def test_a_run_that_has_published_is_not_trained_again_and_another_seed_or_code_is_another_run(
    tmp_path: Path, quick: HyperParameters
) -> None:
    first = run(tmp_path, quick)
    again = run(tmp_path, quick)
    run(tmp_path, quick.override({"seed": 1}))
    run(tmp_path, quick, commit="def")

    registry = Registry(tmp_path / "models")
    manifests = [registry.manifest(NAME, version) for version in registry.versions(NAME)]
    assert (again.outcome, again.manifest) == (None, first.manifest)
    assert [(m.provenance.seed, m.provenance.commit) for m in manifests] == [(0, "abc"), (1, "abc"), (0, "def")]
    # Other code does not take over a finished checkpoint: it computes weights of its own, here the same ones.
    assert len({path.parent for path in (tmp_path / "runs").rglob("checkpoint.pt")}) == 3


def test_a_run_goes_on_from_the_checkpoint_of_the_one_before(tmp_path: Path, quick: HyperParameters) -> None:
    class Breaks(Silent):
        def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
            super().start_epoch(epoch, epochs, iterations)
            if epoch == 2:
                raise job.Stopped

    settings = Settings(
        registry=str(tmp_path), runs_dir=tmp_path / "runs", device="cpu", commit="abc", checkpoint_seconds=0
    )
    recipe = find("neural_net")
    with pytest.raises(job.Stopped):
        job.run(recipe, quick, settings=settings, progress=Breaks(), data="digits", publish_as=NAME)
    silent = Silent()

    result = job.run(recipe, quick, settings=settings, progress=silent, data="digits", publish_as=NAME)

    assert len(silent.iterations) == 1
    assert result.outcome is not None
    assert [epoch.epoch for epoch in result.outcome.history] == [1, 2]
    assert Registry(tmp_path).versions(NAME) == [1]


def test_what_is_served_stays_until_the_new_version_has_proved_to_be_better(
    tmp_path: Path, quick: HyperParameters
) -> None:
    run(tmp_path, quick.override({"epochs": 4}), promote=False)
    registry = Registry(tmp_path / "models")

    kept = run(tmp_path, quick.override({"epochs": 4, "seed": 3, "batch_size": 32}))

    first, second = (accuracy_of(registry.manifest(NAME, version), "digits/held-out") or 0 for version in (1, 2))
    best = 2 if second > first else 1
    assert registry.versions(NAME) == [1, 2]
    assert registry.aliases(NAME) == {"production": best}
    assert kept.decision is not None
    assert kept.decision.startswith("promoted: " if best == 2 else "kept what is in production: ")


@pytest.mark.parametrize(
    ("metrics", "production", "said"),
    [
        (
            [accuracy(0.9)],
            [accuracy(0.8)],
            "promoted: accuracy on digits/held-out is 90.00%, that of rows@1 in production",
        ),
        ([accuracy(0.8)], [accuracy(0.9)], "kept what is in production: accuracy on digits/held-out is 80.00%"),
        ([accuracy(0.9)], [accuracy(0.9)], "kept what is in production"),
        (
            [accuracy(0.9)],
            [accuracy(0.1, "other/held-out")],
            "kept what is in production: rows@1 in production was not",
        ),
    ],
    ids=["better", "worse", "as good", "measured on other data"],
)
def test_a_version_is_promoted_when_it_is_better_on_the_same_data(
    metrics: list[Metric], production: list[Metric], said: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    publish(tmp_path, metrics=production)
    hold_production(registry, "rows")
    new = publish(tmp_path, metrics=metrics)

    decision = promote_if_better(registry, new)

    assert decision.startswith(said)
    assert registry.resolve("rows") == (2 if said.startswith("promoted") else 1)


@pytest.mark.parametrize(
    "change", [{"dataset_digest": "grown"}, {"hyper_parameters": {"held_out": 0.1}}], ids=["data", "share"]
)
def test_accuracies_on_other_examples_of_the_same_name_promote_no_version(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    registry = Registry(tmp_path)
    publish(tmp_path, metrics=[accuracy(0.8)])
    hold_production(registry, "rows")
    new = publish(tmp_path, metrics=[accuracy(0.9)])
    new = new.model_copy(update={"provenance": new.provenance.model_copy(update=change)})

    decision = promote_if_better(registry, new)

    assert decision == (
        "kept what is in production: rows@1 in production was not measured on the examples that rows@2 held out"
    )
    assert registry.resolve("rows") == 1


def test_a_test_split_promotes_no_version(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    publish(tmp_path, metrics=[accuracy(0.1, "digits/test")])
    hold_production(registry, "rows")

    decision = promote_if_better(registry, publish(tmp_path, metrics=[accuracy(0.9, "digits/test")]))

    assert decision == "kept what is in production: rows@2 was not measured on held-out data"
    assert registry.resolve("rows") == 1


def test_a_run_that_holds_nothing_out_cannot_ask_to_be_promoted(quick: HyperParameters) -> None:
    with pytest.raises(OptionError, match=r"promote_if_better must be given with held_out above 0: .* Given: 0"):
        job.run(find("neural_net"), quick, settings=Settings(), progress=Silent(), data="digits", promote=True)


def test_the_first_version_and_one_beside_a_broken_production_are_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first = publish(tmp_path, metrics=[accuracy(0.5)])

    promote_if_better(registry, first)
    (tmp_path / "rows" / "1" / "manifest.json").write_text("{")
    decision = promote_if_better(registry, publish(tmp_path, metrics=[accuracy(0.1)]))

    assert decision == "promoted: nothing in production can be read"
    assert registry.aliases("rows") == {"production": 2}


def test_a_version_that_was_rolled_back_is_not_promoted_by_the_same_run_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    publish(tmp_path, metrics=[accuracy(0.8)])
    hold_production(registry, "rows")
    new = publish(tmp_path, metrics=[accuracy(0.9)])
    promote_if_better(registry, new)
    registry.rollback("rows")

    decision = promote_if_better(registry, new)

    assert decision.startswith("promoted: ")
    assert registry.aliases("rows") == {"production": 1}


def test_of_two_that_promote_at_once_the_better_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    publish(tmp_path, metrics=[accuracy(0.5)])
    hold_production(registry, "rows")
    good, better = (publish(tmp_path, metrics=[accuracy(value)]) for value in (0.8, 0.9))
    slow = Registry(tmp_path)
    compared = threading.Event()

    def after_a_while(*arguments: Any) -> None:
        compared.set()
        time.sleep(0.2)  # long enough for the other to go between, if it could
        Registry.set_alias(slow, *arguments)

    monkeypatch.setattr(slow, "set_alias", after_a_while)
    threads = [threading.Thread(target=promote_if_better, args=(slow, good))]
    threads[0].start()
    assert compared.wait(10)
    threads.append(threading.Thread(target=promote_if_better, args=(registry, better)))
    threads[1].start()
    for thread in threads:
        thread.join()

    assert registry.aliases("rows") == {"production": better.version}
    assert registry.history("rows") == [1, 2, 3]


def test_a_version_that_the_same_run_has_published_elsewhere_is_found_after_training(
    tmp_path: Path, quick: HyperParameters
) -> None:
    first = run(tmp_path, quick, promote=False)
    settings = Settings(registry=str(tmp_path / "models"), runs_dir=tmp_path / "others", device="cpu", commit="abc")
    same = quick.override({"held_out": 0.1})

    outcome = pipeline.run(
        find("neural_net"), same, settings=settings, progress=Silent(), data="digits", publish_as=NAME, once=True
    )

    assert outcome.manifest == first.manifest
    assert Registry(tmp_path / "models").versions(NAME) == [1]


def test_a_runs_dir_that_cannot_be_written_is_an_error_before_training(tmp_path: Path, quick: HyperParameters) -> None:
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(TrainingError, match="runs_dir must be a folder to write to"):
        run(tmp_path, quick)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RegistryError("away"), 75),
        (UnreachableError("no network"), 75),
        (CorruptVersionError("an alias that holds no number"), 1),
        (TrainingError("not finite"), 1),
        (OptionError("no such thing"), 2),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else str(given),
)
def test_the_exit_code_tells_whether_another_start_may_help(error: TrainingError | RegistryError, code: int) -> None:
    assert job.exit_code(error) == code


def command(folder: Path, *options: str) -> list[str]:
    where = ["--registry", str(folder / "models"), "--runs-dir", str(folder / "runs"), "--device", "cpu"]
    return ["run", "neural_net", "--data", "digits", "--epochs", "1", "--commit", "abc", *where, *options]


def test_the_command_says_what_it_did_and_ends_with_0_also_when_nothing_is_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command(tmp_path, "--publish", "--promote-if-better")

    codes = main(line), main(line)

    said = capsys.readouterr().out
    assert codes == (0, 0)
    assert "published neural_net-digits@1" in said
    assert "already published as neural_net-digits@1: nothing to train" in said
    assert said.count("promoted: it is what is served") == 2
    assert Registry(tmp_path / "models").aliases("neural_net-digits") == {"production": 1}


def test_the_command_publishes_and_promotes_only_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [main(command(tmp_path, "--promote-if-better")), main(command(tmp_path))]
    unpublished = not (tmp_path / "models").exists()
    codes.append(main(command(tmp_path, "--publish")))

    said = capsys.readouterr()
    assert codes == [2, 0, 0]
    assert "error: --promote-if-better must be given with --publish. Given: alone" in said.err
    assert unpublished
    assert "not published; --publish does that" in said.out
    assert Registry(tmp_path / "models").aliases("neural_net-digits") == {}


def test_the_command_ends_with_3_when_the_gate_refuses_the_run_and_again_when_it_is_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demanding = replace(find("neural_net"), data="digits", expected=1.0)
    monkeypatch.setitem(recipes.RECIPES, "neural_net", demanding)

    codes = [main(command(tmp_path, "--publish", "--promote-if-better")) for _ in range(2)]

    said = capsys.readouterr().err
    assert codes == [3, 3]
    assert "error: accuracy on digits/test must be at least 100.00%" in said
    assert "what may help: more examples, --epochs 2\n" in said  # twice those of the run, not of the recipe
    assert Registry(tmp_path / "models").models() == []


def test_the_command_ends_with_75_when_the_registry_is_away_or_sigterm_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("SIGTERM did nothing")

    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "file").write_text("")
    codes = [main([*command(tmp_path, "--publish"), "--registry", str(tmp_path / "file" / "models")])]
    monkeypatch.setattr(pipeline, "train", terminated)
    codes.append(main(command(tmp_path)))

    said = capsys.readouterr().err
    assert codes == [75, 75]
    assert "must be writable" in said or "must be readable" in said
    assert "stopped by SIGTERM; the same command goes on from the last checkpoint" in said
    assert signal.getsignal(signal.SIGTERM) == before


def jobs(module: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """What jobs in processes of their own left, as the tests' own script `module` tells it."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.training.{module}", str(folder), *options],
        cwd=ROOT,
        env=untraced(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def files_of(versions: int) -> list[str]:
    """What a registry holds of whole versions, each of them decided on, and of nothing else."""
    whole = [f"{n}/{file}" for n in range(1, versions + 1) for file in ("evaluation.json", "manifest.json", "model.pt")]
    decided = [f"decisions/{n}" for n in range(1, versions + 1)]
    return [*whole, "aliases/production", *decided, "history/production"]


def test_two_jobs_at_once_leave_whole_versions_and_the_best_of_them_in_production(tmp_path: Path) -> None:
    same, others = jobs("jobs_at_once", tmp_path)

    assert same["codes"] == others["codes"] == [0, 0]
    assert [version["seed"] for version in same["versions"]] == [0]  # the second found what the first had published
    assert same["files"] == files_of(1)
    assert sorted(version["seed"] for version in others["versions"]) == [0, 1, 2]
    assert others["production"] == max(others["versions"], key=lambda version: version["accuracy"])
    assert others["history"][-1] == others["versions"].index(others["production"]) + 1
    assert others["files"] == files_of(3)


@pytest.mark.timeout(600)
def test_a_job_that_is_killed_before_any_of_its_writes_is_finished_by_the_next_one(tmp_path: Path) -> None:
    killed = jobs("killed_jobs", tmp_path, os.environ.get("KILL_STEP", "18"))

    assert [one["code"] for one in killed] == [-signal.SIGKILL] * (len(killed) - 1) + [0]
    assert len(killed) > 1
    for one in killed:
        after = one["after"]
        assert one["between"]["production"]["seed"] in ((0, 1) if one["nth"] > 12 else (0,)), one
        assert one["again"] == 0, one
        assert [version["seed"] for version in after["versions"]] == [0, 1], one
        assert (after["production"]["seed"], len(after["history"])) == (1, 2), one
        assert after["production"]["decision"].startswith("promoted: "), one
