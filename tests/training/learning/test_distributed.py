from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.contract.registry import Registry
from tests.training import two_processes
from training.cli import run, train
from training.cli.command_line import main
from training.errors import OptionError
from training.learning.distributed import World, joined

ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def under_torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    """The end of two processes; one that aborts says where each of its threads was, after torchrun's long report."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run([*TORCHRUN, *command], cwd=ROOT, capture_output=True, text=True, env=environment)
    ours, separator, report = done.stderr.partition("distributed/elastic/multiprocessing/api.py")
    assert done.returncode == 0, separator + report + ours
    return done


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes got."""
    folder = tmp_path_factory.mktemp("ranks")
    under_torchrun("-m", "tests.training.two_processes", str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_have_the_gradients_of_one_that_computes_the_whole_batch(by_rank: list[dict[str, Any]]) -> None:
    alone = two_processes.gradients()

    for together in by_rank:
        assert together["size"] == 2
        for ours, theirs in zip(alone, together["gradients"], strict=True):
            assert ours.dim() == 1 or ours.abs().max() > 1e-4  # the bias before a norm has none
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("run", "kept"), [("normed", 0.0), ("kept", 0.25)])
def test_batch_norms_see_the_whole_batch_and_keep_the_statistics_of_one_process(
    run: str, kept: float, by_rank: list[dict[str, Any]]
) -> None:
    alone, _ = two_processes.trained(norm=True, kept=kept)

    for name, tensor in by_rank[0][run].items():
        assert torch.allclose(tensor, alone[name], rtol=1e-3, atol=1e-4), name
        assert torch.equal(tensor, by_rank[1][run][name])


def test_a_batch_that_leaves_a_process_nothing_is_no_trouble_and_the_numbers_are_those_of_all_examples(
    by_rank: list[dict[str, Any]],
) -> None:
    alone, history = two_processes.trained(norm=False)

    for together in by_rank:
        assert all(torch.allclose(together["plain"][name], alone[name], rtol=1e-3, atol=1e-4) for name in alone)
        for (loss, accuracy), epoch in zip(together["losses"], history, strict=True):
            assert loss == pytest.approx(epoch.loss, rel=1e-4)
            assert accuracy == epoch.accuracy


def test_a_run_resumes_from_the_first_process_s_checkpoint_when_the_others_see_none(
    by_rank: list[dict[str, Any]],
) -> None:
    for together in by_rank:
        for name, tensor in together["plain"].items():
            assert torch.equal(together["resumed"][name], tensor), name


def test_a_checkpoint_that_the_first_process_cannot_read_ends_all_of_them(by_rank: list[dict[str, Any]]) -> None:
    first, second = (together["refused"] for together in by_rank)

    assert "damaged-0/checkpoint.pt must be one that this run has written" in first
    assert second == first


def test_under_torchrun_a_job_trains_in_all_processes_and_one_of_them_publishes_and_promotes(tmp_path: Path) -> None:
    options = ["--data", "digits", "--epochs", "2", "--device", "cpu", "--publish", "--promote-if-better"]
    where = ["--registry", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "runs"), "--commit", "abc"]
    figures = ["--metrics-textfile", str(tmp_path / "figures.prom")]

    done = under_torchrun("-m", "tests.training.quickly", "run", "neural_net", *options, *where, *figures)

    registry = Registry(tmp_path / "m")
    assert len(re.findall(r"^epoch 2/2 ", done.stdout, re.M)) == 1
    assert len(re.findall(r"^published neural_net-digits@1$", done.stdout, re.M)) == 1
    assert done.stderr.count("digits/train, 1,294 examples") == 1
    assert "another process is doing this run" not in done.stderr
    assert registry.aliases("neural_net-digits") == {"production": 1}
    assert registry.manifest("neural_net-digits", 1).provenance.device.endswith(" in 2 processes")
    assert "training_last_run_exit_code" in (tmp_path / "figures.prom").read_text()


@pytest.mark.parametrize("name", ["train", "run"])
def test_a_process_that_is_not_the_first_shows_saves_and_publishes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"train": train, "run": run}[name]
    monkeypatch.setattr(module, "joined", lambda device: contextlib.nullcontext(World(rank=1)))
    options = ["--data", "digits", "--epochs", "1", "--device", "cpu", "--publish", "--registry", str(tmp_path / "m")]

    code = main([name, "neural_net", *options, "--runs-dir", str(tmp_path / "runs")])

    assert (code, capsys.readouterr().out) == (0, "")
    assert list(tmp_path.rglob("checkpoint.pt")) == list(tmp_path.rglob("manifest.json")) == []


def test_alone_a_process_is_the_world_and_its_network_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))

    with joined(torch.device("cpu")) as world, world.shared_norms(network):
        inside = type(network[0])

    assert world == World(rank=0, size=1)
    assert world.leads
    assert inside is nn.BatchNorm2d
    assert world.place(torch.device("cuda")) == torch.device("cuda", 0)
    assert torch.equal(world.part(torch.arange(5)), torch.arange(5))


def test_parts_are_the_whole_batch_together() -> None:
    batch = torch.arange(7)

    parts = [World(rank, 3).part(batch) for rank in range(3)]

    assert torch.equal(torch.cat(parts), batch)
    assert [len(part) for part in parts] == [3, 2, 2]


def test_each_process_has_a_gpu_of_its_own() -> None:
    assert World(rank=5, size=8, local_rank=1).place(torch.device("cuda")) == torch.device("cuda", 1)
    assert World(rank=5, size=8, local_rank=1).place(torch.device("cpu")) == torch.device("cpu")


def test_a_device_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)

    with (
        pytest.raises(OptionError, match=r"device must be cpu or cuda under torchrun\. Given: mps"),
        joined(torch.device("mps")),
    ):
        pass
