"""The files of a version that are for people: the card and the pictures in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.contract.manifest import ModelManifest
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters
from training.learning.trainer import EpochResult
from training.publishing.card import card
from training.publishing.evaluate import Evaluation
from training.publishing.plots import confusion_matrix, learning_curve, worst_mistakes
from training.recipes import Recipe

CARD = "card.md"


@dataclass(frozen=True)
class Report:
    """The facts of a run that the card and pictures of its version show."""

    recipe: Recipe
    command: str
    evaluations: Sequence[Evaluation]  # that on `test` first
    test: Dataset
    history: Sequence[EpochResult]
    latencies: Mapping[int, float]

    def files(self, manifest: ModelManifest) -> dict[str, bytes]:
        """Return the files by name."""
        pictures = {
            "Learning curve": ("learning_curve.png", learning_curve(self.history)),
            "Confusion matrix": ("confusion_matrix.png", confusion_matrix(self.evaluations[0])),
        }
        if self.test.images:
            pictures["Worst mistakes"] = ("worst_mistakes.png", worst_mistakes(self.evaluations[0], self.test))
        activation = manifest.provenance.hyper_parameters.get("activation", "own")
        replaced = "" if activation == "own" else f"; each activation replaced by {activation}"
        text = card(
            manifest,
            network=self.recipe.summary + replaced,
            command=self.command,
            evaluations=self.evaluations,
            history=self.history,
            latencies=self.latencies,
            pictures={title: name for title, (name, _) in pictures.items()},
            sent=self.recipe.sent,
        )
        return {CARD: text.encode(), **dict(pictures.values())}


def command(recipe: Recipe, hyper: HyperParameters, data: str | None) -> str:
    """Return the command that reproduces a run: recipe, changed options, and what depends on the device."""
    words = ["python", "-m", "training", "train", recipe.name]
    if data not in (None, recipe.data):
        kind, separator, _ = str(data).partition(":")
        words += ["--data", f"{kind}:PATH" if separator else kind]  # where it lies here would tell nobody anything
    for name, value in hyper.model_dump().items():
        chosen_by_device = name == "precision" and recipe.bfloat16_pays
        if value != getattr(recipe.hyper, name) or chosen_by_device:
            words += _option(f"--{name.replace('_', '-')}", value)
    return shlex.join([*words, "--publish"])


def _option(option: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, *map(str, value if isinstance(value, tuple) else [value])]
