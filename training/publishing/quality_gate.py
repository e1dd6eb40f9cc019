"""The quality gate: a model must reach its recipe's floor and not fall behind production.

Knows nothing about the registry; what is in production is given.
"""

from __future__ import annotations

from service.contract.manifest import ModelManifest
from training.publishing.evaluate import Evaluation
from training.recipes import Recipe


def refusal(
    evaluation: Evaluation, *, recipe: Recipe, production: ModelManifest | None, tolerance: float
) -> str | None:
    """Return why the model must not be published, with both numbers, or None if it may.

    Only accuracies on the same data are compared: a recipe on other data has no floor, and a production model that was
    measured on other data is no yardstick.
    """
    given = f"Given: {evaluation.accuracy:.2%}"
    if evaluation.data == recipe.measured_on and evaluation.accuracy < recipe.expected:
        return (
            f"accuracy on {evaluation.data} must be at least {recipe.expected:.2%}, the floor of {recipe.name}. {given}"
        )
    served = accuracy_of(production, evaluation.data)
    if production is not None and served is not None and evaluation.accuracy < served - tolerance:
        return (
            f"accuracy on {evaluation.data} must be at most {tolerance:.2%} below the {served:.2%} of "
            f"{production.name}@{production.version} in production. {given}"
        )
    return None


def accuracy_of(manifest: ModelManifest | None, data: str) -> float | None:
    """Return the accuracy on `data` that a manifest records, or None."""
    metrics = manifest.metrics if manifest is not None else ()
    return next((metric.value for metric in metrics if (metric.name, metric.data) == ("accuracy", data)), None)
