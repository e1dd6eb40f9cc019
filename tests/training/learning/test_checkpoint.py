from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.contract.registry import Registry
from tests.training.conftest import Silent
from training import pipeline
from training.cli.command_line import main
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.hyper_parameters import HyperParameters
from training.learning.checkpoint import Checkpoints
from training.learning.trainer import EpochResult, train
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet
from training.recipes import find
from training.settings import Settings

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("plain_pictures")


class Dropped(nn.Module):
    """A network with chance of its own and with statistics that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Interrupting(Silent):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def due(self) -> bool:
        if len(self.iterations) == self.epoch and self.iterations[-1] == 5:
            raise KeyboardInterrupt
        return super().due()


def fit(data: Dataset, hyper: HyperParameters, checkpoints: Checkpoints | None, progress: Silent) -> Dropped:
    torch.manual_seed(hyper.seed)
    network = Dropped()
    train(network, Preprocessing(), data=data, hyper=hyper, progress=progress, checkpoints=checkpoints)
    return network


def saved(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


def raw(state: dict[str, Any]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adam", "lr": 0.01, "lr_schedule": "linear"},
        {"optimiser": "adam", "lr": 0.01, "amsgrad": True},
        {"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "lr_schedule": "one_cycle"},
        {"optimiser": "muon", "lr": 0.1, "momentum": 0.9},
    ],
    ids=lambda options: options["optimiser"],
)
def test_a_run_that_was_interrupted_in_an_epoch_resumes_and_ends_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, digits: Dataset, options: dict[str, Any]
) -> None:
    hyper = HyperParameters(epochs=4, batch_size=128, **options)
    unbroken = fit(digits, hyper, None, Silent())
    with pytest.raises(KeyboardInterrupt):
        fit(digits, hyper, Checkpoints(tmp_path), Interrupting(epoch=3))
    torch.rand(7)  # chance has moved on since
    progress = Silent()

    resumed = fit(digits, hyper, Checkpoints(tmp_path, resume=True), progress)

    assert len(progress.iterations) == 2  # the third epoch from its beginning, and the fourth
    assert raw(resumed.state_dict()) == raw(unbroken.state_dict())


def test_a_run_killed_with_sigkill_resumes_on_the_command_line_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = ["train", "neural_net", "--data", "digits", "--epochs", "20", "--device", "cpu"]
    options = [*recipe, "--checkpoint-seconds", "0", "--registry", str(tmp_path / "models"), "--publish"]
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    command = [sys.executable, "-m", "training", *options, "--runs-dir", str(broken)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        for _ in range(2):
            assert training.stdout.readline().startswith("epoch")
        os.kill(training.pid, signal.SIGKILL)
    (folder,) = broken.iterdir()
    at_the_kill = len(saved(folder)["epochs"])

    codes = [main([*options, "--runs-dir", str(broken), "--resume"]), main([*options, "--runs-dir", str(unbroken)])]

    ends = [saved(runs / folder.name) for runs in (broken, unbroken)]
    registry = Registry(tmp_path / "models")
    first, second = (registry.manifest("neural_net-digits", version) for version in (1, 2))
    assert codes == [0, 0]
    assert training.returncode == -signal.SIGKILL
    assert 1 <= at_the_kill < 20
    assert [len(end["epochs"]) for end in ends] == [20, 20]
    assert raw(ends[0]["parts"]["network"]) == raw(ends[1]["parts"]["network"])
    assert (first.golden, first.metrics, first.temperature) == (second.golden, second.metrics, second.temperature)


def test_a_finished_run_resumes_without_training_again(tmp_path: Path, quick: HyperParameters) -> None:
    def run(*, resume: bool, progress: Silent) -> pipeline.Outcome:
        settings = Settings(registry=str(tmp_path), device="cpu")
        return pipeline.run(
            find("neural_net"), quick, settings=settings, progress=progress, data="digits", resume=resume
        )

    first, progress = run(resume=False, progress=Silent()), Silent()
    second = run(resume=True, progress=progress)

    assert progress.iterations == []
    assert second.history == first.history
    assert second.evaluation == first.evaluation


def test_a_run_with_other_hyper_parameters_or_data_does_not_resume_this_one(quick: HyperParameters) -> None:
    recipe = find("neural_net")

    def name(hyper: HyperParameters = quick, digest: str = "ab") -> str:
        return pipeline.run_name(recipe, hyper, data="folder:/home/me/photos", digest=digest)

    names = {name(), name(quick.override({"lr": "0.02"})), name(quick.override({"seed": 1})), name(digest="cd")}

    assert len(names) == 4
    assert name() == name()
    assert name().startswith("neural_net-folder-seed0-")


def test_without_a_checkpoint_resume_begins_at_the_beginning(tmp_path: Path, digits: Dataset) -> None:
    hyper = HyperParameters(epochs=1, batch_size=128, optimiser="sgd", lr=0.1)
    progress = Silent()

    fit(digits, hyper, Checkpoints(tmp_path / "new", resume=True), progress)

    assert len(progress.iterations) == 1
    assert [epoch["epoch"] for epoch in saved(tmp_path / "new")["epochs"]] == [1]


def test_checkpoints_are_as_far_apart_as_asked_and_the_last_epoch_always_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoints = Checkpoints(tmp_path, seconds=10)
    made = []

    for epoch in range(1, 6):
        now += 6
        checkpoints.save({}, [{"epoch": epoch}], last=epoch == 5)
        made.append(saved(tmp_path)["epochs"][-1]["epoch"] if (tmp_path / "checkpoint.pt").exists() else None)

    assert made == [None, 2, 2, 4, 5]


@contextlib.contextmanager
def full_while_writing() -> Iterator[str]:
    """No file may grow beyond 100 kB: the kernel takes a part of a write and refuses the next, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def full_at_the_end() -> Iterator[str]:
    """The disk is found to be full when all was written."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", full)
        yield "No space left on device"


@pytest.mark.parametrize("full", [full_while_writing, full_at_the_end])
def test_a_full_disk_is_a_message_and_leaves_the_checkpoint_before_it_whole(
    full: Callable[[], AbstractContextManager[str]], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"network": NeuralNet()}, [{"epoch": 1}], last=False)

    remedy = r"\. Make room there.*before it is whole: --resume"
    with full() as reason, pytest.raises(TrainingError, match=reason + remedy):
        checkpoints.save({"network": NeuralNet()}, [{"epoch": 2}], last=False)

    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert saved(tmp_path)["epochs"] == [{"epoch": 1}]


def test_a_checkpoint_that_is_cut_off_is_a_message(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, resume=True)
    checkpoints.save({"network": NeuralNet()}, [{"epoch": 1}], last=True)
    whole = checkpoints.file.read_bytes()
    checkpoints.file.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(TrainingError, match=r"must be one that this run has written\. Given: .*Remove it"):
        checkpoints.restore({"network": NeuralNet()}, EpochResult)


def test_a_checkpoint_of_something_else_than_tensors_is_a_message_without_advice_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"hello")

    with pytest.raises(TrainingError, match=r"has written\. Given: a file of something else than tensors\. Remove it"):
        Checkpoints(tmp_path, resume=True).restore({}, EpochResult)


@pytest.mark.parametrize(
    "saved",
    [
        torch.zeros(3),
        [1],
        {"parts": [], "epochs": [], "chance": torch.get_rng_state()},
        {"parts": {"network": {}}, "epochs": [{"epoch": 1, "of_other_code": 2}], "chance": torch.get_rng_state()},
        {"parts": {"network": {}}, "epochs": "none", "chance": torch.get_rng_state()},
        {"parts": {"network": {}}, "epochs": []},
        {"parts": {"network": {}}, "epochs": [], "chance": torch.zeros(3)},
    ],
    ids=["tensor", "list", "no parts", "epochs of other code", "no epochs", "no chance", "chance of another kind"],
)
def test_a_checkpoint_of_something_else_is_a_message(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "checkpoint.pt")

    with pytest.raises(TrainingError, match=r"must be one that this run has written\. Given: .*Remove it"):
        Checkpoints(tmp_path, resume=True).restore({"network": torch.nn.Identity()}, EpochResult)


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_of_the_epoch_before(tmp_path: Path, digits: Dataset) -> None:
    class NanInTheThirdEpoch(Dropped):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(images) * (torch.nan if self.calls > 30 else 1)

    hyper = HyperParameters(epochs=3, batch_size=128, optimiser="sgd", lr=0.1)  # 12 iterations an epoch

    with pytest.raises(TrainingError, match=r"finite number\. Given: nan in epoch 3"):
        train(
            NanInTheThirdEpoch(),
            Preprocessing(),
            data=digits,
            hyper=hyper,
            progress=Silent(),
            checkpoints=Checkpoints(tmp_path),
        )

    assert [epoch["epoch"] for epoch in saved(tmp_path)["epochs"]] == [1, 2]


def test_a_disk_that_is_full_when_publishing_is_a_message_and_leaves_nothing_in_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: object, path: str, value: bytes, **_: object) -> None:
        if path.endswith(".png") or ".png." in path:
            Path(path).write_bytes(value[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Path(path).write_bytes(value)

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", full)
    options = ["--data", "digits", "--epochs", "1", "--device", "cpu", "--publish", "--registry", str(tmp_path)]

    code = main(["train", "neural_net", *options])

    assert code == 1
    assert "No space left on device" in capsys.readouterr().err
    assert Registry(tmp_path).models() == []
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == []


def test_what_an_epoch_gave_is_saved_as_it_was(tmp_path: Path) -> None:
    result = {"epoch": 1, "loss": 0.5, "accuracy": 0.9, "seconds": 1.5}
    checkpoints = Checkpoints(tmp_path, resume=True)
    checkpoints.save({}, [result], last=True)

    assert checkpoints.restore({}, EpochResult) == [EpochResult(1, 0.5, 0.9, 1.5)]
