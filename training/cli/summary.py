"""The summary of a run, for people. Knows nothing about the command line."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from service.contract.manifest import ModelManifest
from service.contract.registry import ARTIFACT
from training.pipeline import Outcome
from training.publishing.calibrate import Calibration
from training.recipe import Recipe
from training.settings import Settings


def measured(outcome: Outcome) -> str:
    """Return how long it trained, and a line for each measurement."""
    lines = [f"trained in {outcome.training_seconds:.1f} s"]
    for evaluation in outcome.evaluations:
        expected = outcome.expected if evaluation is outcome.evaluation else None
        floor = f" (expected: at least {expected:.1%})" if expected is not None else ""
        lines.append(
            f"{evaluation.data}: loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
            f"of {evaluation.n:,} examples{floor}, calibration error "
            f"{_calibration_error(evaluation.calibrated)}, "
            f"at temperature 1 {_calibration_error(evaluation.uncalibrated)}"
        )
    lines.append(f"temperature {outcome.evaluation.calibrated.temperature:g}")
    return "\n".join(lines)


def _calibration_error(found: Calibration) -> str:
    return f"{found.ece:.2%} (chance: up to {found.ece_bound:.2%})"


def remedy(outcome: Outcome, recipe: Recipe) -> str:
    """Return what to try after a run that learnt too little."""
    hyper = outcome.hyper
    if outcome.trouble is not None:
        usual = recipe.hyper.lr
        lr = usual if hyper.optimiser == recipe.hyper.optimiser and hyper.lr > usual else hyper.lr / 10
        return f"{outcome.trouble}. Try a smaller learning rate: --lr {lr:g}"
    tries = ["more examples", f"--epochs {2 * hyper.epochs}"]
    if isinstance(outcome.example, Path) and not hyper.pretrained and recipe.style == "photo":
        tries.append("--pretrained")
    return f"what may help: {', '.join(tries)}"


def published(manifest: ModelManifest, settings: Settings, example: Path | tuple[float, ...] | None = None) -> str:
    """Return which version was published where, how to serve it, and how to ask about `example`, if there is one."""
    forced = f" by force, although {manifest.forced}" if manifest.forced is not None else ""
    lines = [
        f"published {manifest.name}@{manifest.version}{forced}",
        f"  path    {settings.registry.rstrip('/')}/{manifest.name}/{manifest.version}/{ARTIFACT}",
        f"  size    {manifest.artifact.size_bytes:,} bytes",
        f"  sha256  {manifest.artifact.sha256}",
        f"serve it:  {interpreter()} -m service --registry {shlex.quote(settings.registry)}",
    ]
    if example is not None:
        lines.append(f"ask it:    curl {_body(example)} 'localhost:8000/predict?model={manifest.name}'")
    return "\n".join(lines)


def command(words: Sequence[str], *more: str) -> str:
    """Return the command with those words for the shell that it came from, with `more` options that it lacks."""
    return shlex.join([interpreter(), "-m", "training", *words, *(word for word in more if word not in words)])


def interpreter() -> str:
    """Return how this shell starts the Python that runs: python in its environment, else by its path."""
    found = shutil.which("python")
    if found is not None and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _body(example: Path | tuple[float, ...]) -> str:
    if isinstance(example, Path):
        return f"--data-binary {shlex.quote(f'@{example}')} -H 'content-type: image/png'"
    return f"""--json '{json.dumps({"features": [[float(f"{value:.6g}") for value in example]]})}'"""
