"""The files of a version that are for people: the card and the pictures in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.contract.manifest import ModelManifest
from service.images.decode import picture
from training.adaptation import ADAPTED
from training.data.dataset import Dataset
from training.data.sources import file_and_label, is_own
from training.hyper_parameters import HyperParameters
from training.learning.trainer import EpochResult
from training.networks.weights import OFFICIAL
from training.publishing.card import Measurements, card
from training.publishing.evaluate import Evaluation
from training.publishing.plots import confusion_matrix, learning_curve, worst_mistakes
from training.publishing.publish import input_spec
from training.publishing.robustness import Robustness
from training.publishing.sharpening import Sharpening
from training.recipe import Recipe

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
    robustness: Sequence[Robustness] = ()  # that on `test` first
    sharpening: Sharpening | None = None

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
            measured=Measurements(self.evaluations, self.robustness, self.recipe.sent, self.sharpening),
            history=self.history,
            latencies=self.latencies,
            pictures={title: name for title, (name, _) in pictures.items()},
        )
        return {CARD: text.encode(), **dict(pictures.values())}


def example(test: Dataset) -> bytes:
    """Return the first test image as a PNG, to ask a service about."""
    spec = input_spec(test)
    assert spec.kind == "image"  # noqa: S101 - for the type checker
    return picture(test.inputs[0].cpu().contiguous().numpy().tobytes(), spec)


def command(recipe: Recipe, hyper: HyperParameters, data: str | None, *, name: str | None = None) -> str:
    """Return the command that makes the version `name` again: recipe, options that differ, what depends on the device.

    Files and registries are named PATH, FILE and REGISTRY: where they lie on this machine would tell nobody anything.
    With the user's own data, what would be adapted to it is named even where it is as in the recipe: it may be chosen.
    """
    words = ["python", "-m", "training", "train", recipe.name]
    if data not in (None, recipe.data):
        kind, separator, path = str(data).partition(":")
        label = file_and_label(path)[1] if kind == "csv" else None
        words += ["--data", f"{kind}:PATH{'' if label is None else f':{label}'}" if separator else kind]
    if name not in (None, recipe.model_name(data)):
        words += ["--name", str(name)]
    if recipe.start is not None:
        words += ["--pretrained", recipe.start.place]
    elif hyper.pretrained:
        words += ["--pretrained", *([] if hyper.pretrained == OFFICIAL else ["FILE"])]
    for field, value in hyper.model_dump(exclude={"pretrained"}).items():
        chosen_by_device = field == "precision" and recipe.bfloat16_pays
        adapted = field in ADAPTED and is_own(data or "")
        if value != getattr(recipe.hyper, field) or chosen_by_device or adapted:
            words += _option(f"--{field.replace('_', '-')}", value)
    return shlex.join([*words, "--publish"])


def _option(option: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, *map(str, value if isinstance(value, tuple) else [value])]
