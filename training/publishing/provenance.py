"""The origin of a version: the commit of this repository and the run that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from service.contract.manifest import Provenance
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.recipe import Recipe

HERE = Path(__file__).resolve()


def commit(file: Path = HERE) -> str:
    """Return the commit of `file`, with '-dirty' if tracked files differ from it, or 'unknown'."""
    try:
        # Installed into somebody else's repository, that one's commit would say nothing of this code.
        _git(file, "ls-files", "--error-unmatch", file.name)
        head = _git(file, "rev-parse", "HEAD")
        return f"{head}-dirty" if _git(file, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(
    recipe: Recipe, hyper: HyperParameters, data: Dataset, *, commit: str, device: str, seconds: float = 0.0
) -> Provenance:
    """Return the manifest's record of a run of `recipe` with `hyper` on all of `data`."""
    return Provenance(
        recipe=recipe.name,
        hyper_parameters=hyper.effective(),
        dataset=data.title,
        dataset_digest=data.digest,
        seed=hyper.seed,
        commit=commit,
        torch_version=torch.__version__,
        device=device,
        seconds=round(seconds, 3),
    )


def same_run(one: Provenance, other: Provenance) -> bool:
    """Return whether both describe the same run, whatever its device and duration."""
    apart = {"device", "seconds"}
    return one.model_dump(exclude=apart) == other.model_dump(exclude=apart)


def same_held_out(one: Provenance, other: Provenance) -> bool:
    """Return whether both runs held out the same examples: the same share of the same data."""
    shares = [each.hyper_parameters.get("held_out") for each in (one, other)]
    return one.dataset_digest == other.dataset_digest and shares[0] == shares[1]


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - ours
