"""What workers find out about versions outlives them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import service.rollout.verdicts
from service.contract.manifest import ModelManifest
from service.rollout.verdicts import Verdicts
from tests.registries import publish


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    return publish(tmp_path / "models")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.jsonl"


@pytest.fixture
def as_dead_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on what is written is another process's that has ended."""

    def become() -> None:
        process = subprocess.Popen(["true"])
        process.wait()
        monkeypatch.setattr(service.rollout.verdicts.os, "getpid", lambda: process.pid)  # type: ignore[attr-defined]

    return become


def test_nothing_is_known_of_a_version_that_nobody_met(path: Path, manifest: ModelManifest) -> None:
    verdicts = Verdicts(path)

    assert (verdicts.is_fit(manifest), verdicts.against(manifest)) == (False, "")


def test_a_verdict_is_known_to_whoever_reads_the_same_file(path: Path, tmp_path: Path) -> None:
    good, bad = publish(tmp_path), publish(tmp_path)
    Verdicts(path).accept(good)
    Verdicts(path).refuse(bad, "it is bad")

    verdicts = Verdicts(path)

    assert [verdicts.is_fit(good), verdicts.is_fit(bad)] == [True, False]
    assert [verdicts.against(good), verdicts.against(bad)] == ["", "it is bad"]


def test_a_version_that_is_published_again_is_another(path: Path, tmp_path: Path) -> None:
    bad, again = publish(tmp_path / "a"), publish(tmp_path / "b")
    Verdicts(path).refuse(bad, "it is bad")

    assert (str(again.name), again.version) == (bad.name, bad.version)
    assert Verdicts(path).against(again) == ""


def test_a_version_that_two_workers_died_of_is_not_to_be_loaded(
    path: Path, manifest: ModelManifest, as_dead_worker: Callable[[], None]
) -> None:
    verdicts, said = Verdicts(path), []
    for _ in range(2):
        as_dead_worker()
        verdicts.begin(manifest)
        said.append(verdicts.against(manifest))

    assert said == ["", "rows@1: loading it must not end the worker. 2 died of it"]


def test_workers_that_live_and_load_a_version_do_not_speak_against_it(
    path: Path, manifest: ModelManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = Verdicts(path)
    for pid in (os.getpid(), os.getppid()):
        monkeypatch.setattr(service.rollout.verdicts.os, "getpid", lambda pid=pid: pid)  # type: ignore[attr-defined]
        verdicts.begin(manifest)

    assert verdicts.against(manifest) == ""


def test_a_version_that_served_is_not_what_workers_die_of(
    path: Path, manifest: ModelManifest, as_dead_worker: Callable[[], None]
) -> None:
    verdicts = Verdicts(path)
    for _ in range(2):
        as_dead_worker()
        verdicts.begin(manifest)

    verdicts.accept(manifest)

    assert verdicts.against(manifest) == ""


@pytest.mark.parametrize(
    "rest", [b'{"version":"rows@1', b"\xff\x00\xff", b"{}\n[]\nnull\n\n", b'{"is_": "fit", "worker']
)
def test_a_line_that_was_cut_off_is_passed_over_and_eats_none_of_those_after_it(
    path: Path, tmp_path: Path, rest: bytes
) -> None:
    good, bad = publish(tmp_path), publish(tmp_path)
    Verdicts(path).refuse(bad, "it is bad")
    path.write_bytes(path.read_bytes() + rest)

    Verdicts(path).accept(good)

    assert Verdicts(path).against(bad) == "it is bad"
    assert Verdicts(path).is_fit(good)


def test_a_full_disk_and_a_file_that_cannot_be_read_cost_verdicts_and_nothing_else(
    tmp_path: Path, manifest: ModelManifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = Verdicts(tmp_path)  # a folder
    full = Verdicts(tmp_path / "full.jsonl")

    def write(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    unreadable.accept(manifest)
    with monkeypatch.context() as patch:
        patch.setattr(service.rollout.verdicts.os, "write", write)  # type: ignore[attr-defined]
        full.refuse(manifest, "it is bad")

    assert (unreadable.is_fit(manifest), unreadable.against(manifest), full.against(manifest)) == (False, "", "")
    assert "No space left" in caplog.text
    assert "cannot be read, so versions are tried again" in caplog.text
