"""Whole jobs for the tests, each in a fork of one process that has imported everything, and what they leave."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.contract.registry import Registry
from tests.training import quickly
from training.cli.command_line import main
from training.data.sources import load
from training.publishing import quality_gate
from training.publishing.quality_gate import accuracy_of
from training.publishing.report import Report

NAME = "neural_net-digits"


def prepare(folder: Path) -> None:
    """What every job would do for itself, and what takes it a second each time."""
    import torch._dynamo  # every optimiser imports it; here once, and not in every child
    import torch.utils.tensorboard  # noqa: F401

    load("digits", "train", folder)
    quickly.hasten()
    quality_gate.SIGNIFICANT = 1.0  # one epoch may leave a network that still guesses
    Report.files = lambda self, manifest: {}  # type: ignore[method-assign] # the pictures take a second


def job(folder: Path, *options: str) -> int:
    what = ["neural_net", "--data", "digits", "--epochs", "1", "--device", "cpu", "--threads", "1", "--commit", "abc"]
    where = ["--registry", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    return main(["run", *what, *where, "--publish", "--promote-if-better", *options])


def at_once(*acts: Callable[[], int]) -> list[int]:
    """The exit codes of `acts`, each in a child, negative for a signal that ended it; all begin at once."""
    sys.stdout.flush()
    waiting, begin = os.pipe()
    children = []
    for act in acts:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.close(begin)
            os.read(waiting, 1)  # until the parent closes the other end
            os._exit(act())
        children.append(child)
    os.close(begin)
    os.close(waiting)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def left(folder: Path) -> dict[str, Any]:
    """What is in the registry of jobs at `folder`; every version that is there is whole."""
    registry = Registry(folder / "models")
    versions: dict[int, dict[str, Any]] = {}
    for version in registry.versions(NAME):
        manifest = registry.manifest(NAME, version)
        registry.artifact(manifest)
        versions[version] = {
            "seed": manifest.provenance.seed,
            "accuracy": accuracy_of(manifest, "digits/held-out"),
            "decision": registry.decision(NAME, version),
        }
    files = (path.relative_to(folder / "models" / NAME) for path in (folder / "models").rglob("*") if path.is_file())
    return {
        "versions": list(versions.values()),
        "production": versions[registry.resolve(NAME)],
        "history": registry.history(NAME),
        "files": sorted(map(str, files)),
    }
