"""The quality gate: a model must reach its recipe's floors, on other data beat guessing, and stay near production.

Versions are compared on held-out data alone: a test split that chose between versions would measure them too well.
Knows nothing about the registry; what is in production is given.
"""

from __future__ import annotations

import math

from service.contract.manifest import ModelManifest
from training.data.dataset import Dataset
from training.publishing.evaluate import Evaluation
from training.publishing.robustness import MEAN, Robustness
from training.recipe import Recipe

CORRUPTED_TOLERANCE = 0.015
"""What the accuracy on corrupted copies may lose beyond the tolerance: it differs between seeds by more."""

LEAST_COPIED = 200
"""Held-out images with corrupted copies; with fewer, equal versions differ by more than the tolerance."""

_ROUNDING = 1e-9
"""Of differences between shares: 3 right of 200 is 0.5 points below 4 of 200, and not by a hair more."""

SIGNIFICANT = 0.05
"""The probability at most with which a guess would have been as accurate as the model."""


def refusal(
    evaluation: Evaluation,
    *,
    recipe: Recipe,
    production: ModelManifest | None,
    tolerance: float,
    own: bool = False,
    held_out: Evaluation | None = None,
    robustness: Robustness | None = None,
) -> str | None:
    """Return why the model must not be published, with both numbers, or None if it may.

    `evaluation` is on the test split, `held_out` and `robustness` are on training examples that were held out. Only
    accuracies on the same data are compared: a production model that was measured on other data is no yardstick, and
    a run that held nothing out is not compared. A recipe on other data, or on the user's `own` by the same name, has no
    floor; there it must be better than always giving the most frequent class, by a one-sided
    binomial test at the level `SIGNIFICANT`.
    """
    given = f"Given: {evaluation.accuracy:.2%}"
    usual = has_floor(recipe, evaluation.data, own=own)
    if usual and evaluation.accuracy < recipe.expected:
        return (
            f"accuracy on {evaluation.data} must be at least {recipe.expected:.2%}, the floor of {recipe.name}. {given}"
        )
    if not usual:
        majority = max(map(sum, evaluation.confusion)) / evaluation.n
        right = round(evaluation.accuracy * evaluation.n)
        chance = binomial_tail(right, evaluation.n, majority)
        if chance > SIGNIFICANT:
            return (
                f"accuracy on {evaluation.data} must be significantly above the {majority:.2%} of its most frequent "
                f"class (binomial test, p at most {SIGNIFICANT}). {given} of {evaluation.n:,}, p = {chance:.2g}"
            )
    floor = recipe.expected_corrupted if usual else None
    if robustness is not None and floor is not None and robustness.mean < floor:
        return (
            f"accuracy on corrupted copies of {robustness.data} must be at least {floor:.2%}, the floor of "
            f"{recipe.name}. Given: {robustness.mean:.2%}, at worst {robustness.of(robustness.worst):.2%} with "
            f"{robustness.worst}"
        )
    if production is None or held_out is None:
        return None
    data = held_out.data
    compared = [(f"accuracy on {data}", accuracy_of(production, data), held_out.accuracy, tolerance)]
    if robustness is not None and robustness.n >= LEAST_COPIED:
        served = metric_of(production, MEAN, data)
        what = f"accuracy on corrupted copies of {data}"
        compared.append((what, served, robustness.mean, tolerance + CORRUPTED_TOLERANCE))
    for what, served, found, allowed in compared:
        if served is not None and served - found > allowed + _ROUNDING:
            return (
                f"{what} must be at most {allowed:.2%} below the {served:.2%} of "
                f"{production.name}@{production.version} in production. Given: {found:.2%}"
            )
    return None


def has_floor(recipe: Recipe, data: str, *, own: bool) -> bool:
    """Return whether the recipe's floors hold on `data`, and not on the user's `own` by the same name."""
    return data == recipe.measured_on and not own


def binomial_tail(right: int, n: int, share: float) -> float:
    """Return the probability of `right` or more hits in `n` trials that each hit with probability `share`, above 0."""
    if share == 1:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_share + (n - k) * log_rest
        for k in range(right, n + 1)
    )
    return min(1.0, sum(map(math.exp, terms)))


def too_few_to_tell(test: Dataset) -> str | None:
    """Return why not even a model without a mistake on `test` could pass, or None if one could."""
    n, most = len(test), int(test.labels.bincount().max())
    if most < n and binomial_tail(n, n, most / n) <= SIGNIFICANT:
        return None
    return (
        f"{test.title} must have examples enough to tell a model from guessing. Given: {n}, of which {most} are of one "
        "class. Add examples, or publish with --force"
    )


def accuracy_of(manifest: ModelManifest | None, data: str) -> float | None:
    """Return the accuracy on `data` that a manifest records, or None."""
    return metric_of(manifest, "accuracy", data)


def metric_of(manifest: ModelManifest | None, name: str, data: str) -> float | None:
    """Return the value of a metric on `data` that a manifest records, or None."""
    metrics = manifest.metrics if manifest is not None else ()
    return next((metric.value for metric in metrics if (metric.name, metric.data) == (name, data)), None)
