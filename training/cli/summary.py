"""The summary of a run, for people. Knows nothing about the command line."""

from __future__ import annotations

from service.contract.manifest import ModelManifest
from service.contract.registry import ARTIFACT
from training.pipeline import Outcome
from training.recipes import Recipe
from training.settings import Settings


def measured(outcome: Outcome, recipe: Recipe) -> str:
    """Return how long it trained, and a line for each measurement."""
    lines = [f"trained in {outcome.training_seconds:.1f} s"]
    for evaluation in outcome.evaluations:
        floor = f" (expected: at least {recipe.expected:.1%})" if evaluation.data == recipe.measured_on else ""
        lines.append(
            f"{evaluation.data}: loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
            f"of {evaluation.n:,} examples{floor}, calibration error {evaluation.calibrated.ece:.2%} "
            f"({evaluation.uncalibrated.ece:.2%} at temperature 1)"
        )
    lines.append(f"temperature {outcome.evaluation.calibrated.temperature:g}")
    return "\n".join(lines)


def published(manifest: ModelManifest | None, settings: Settings) -> str:
    """Return which version was published where, and how to query it."""
    if manifest is None:
        return "not published; run it again with --publish --resume to write it to the registry"
    body = {
        "image": "--data-binary @digit.png -H 'content-type: image/png'",
        "features": """--json '{"features": [[...]]}'""",
    }[manifest.input.kind]
    forced = f" by force, although {manifest.forced}" if manifest.forced is not None else ""
    return (
        f"published {manifest.name}@{manifest.version}{forced}\n"
        f"  path    {settings.registry.rstrip('/')}/{manifest.name}/{manifest.version}/{ARTIFACT}\n"
        f"  size    {manifest.artifact.size_bytes:,} bytes\n"
        f"  sha256  {manifest.artifact.sha256}\n"
        f"serve it:  python -m service --registry {settings.registry}\n"
        f"ask it:    curl {body} 'localhost:8000/predict?model={manifest.name}'"
    )
