"""The command line of the training half: `python -m training list`, `python -m training train RECIPE`.

Knows what people type and read; what happens in between is `pipeline.run`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from service.registry import ARTIFACT, RegistryError
from training import pipeline
from training.device import cpu_threads
from training.errors import TrainingError, option_error
from training.hyper_parameters import HyperParameters
from training.options import Parser, add_options, given
from training.pipeline import Outcome
from training.progress import open_progress
from training.recipes import RECIPES, Recipe, find
from training.settings import Settings
from training.sources import OWN, SOURCES

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 an option is wrong, 130 interrupted."""
    try:
        arguments = _parser().parse_args(argv)
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        if arguments.command == "list":
            return _list()
        return _train(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except RegistryError as error:
        print(f"error: {error} Nothing was published.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: training stopped, and no half-written version is in the registry.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description="Train classifiers and publish them for the service.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands.add_parser("list", help="Show the recipes.", description="Show the recipes and what each one reaches.")
    train = commands.add_parser(
        "train",
        help="Train a recipe, and publish it with --publish.",
        description="Train a recipe, measure it on the test split, and with --publish write it to the registry as the "
        "model's next version, which a running service picks up.",
        epilog="Example: python -m training train neural_net --data-dir PATH --publish",
    )
    train.add_argument("recipe", metavar="RECIPE", help=f"What to train: {', '.join(RECIPES)}.")
    train.add_argument("--data", metavar="NAME", help=f"Train on other data: {', '.join([*SOURCES, *OWN])}.")
    train.add_argument("--publish", action="store_true", help="Write the result to the registry.")
    train.add_argument("--name", help="Publish as this model. Default: the recipe's name, with --data NAME after it.")
    add_options(train, Settings, title="this machine (also TRAINING_X in the environment)", default="{default}")
    add_options(train, HyperParameters, title="hyper-parameters", default="the recipe's")
    return parser


def _list() -> int:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("recipe", "network", "data", "optimiser", "epochs", "expected"):
        table.add_column(column)
    for recipe in RECIPES.values():
        hyper = recipe.hyper
        optimiser = f"{hyper.optimiser}, lr {hyper.lr:g} {hyper.lr_schedule}, batch {hyper.batch_size}"
        expected = f">= {recipe.expected:.1%} on {recipe.measured_on}"
        table.add_row(recipe.name, recipe.summary, recipe.data, optimiser, str(hyper.epochs), expected)
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # 80 columns in a pipe would wrap
    return 0


def _train(arguments: argparse.Namespace) -> int:
    recipe = find(arguments.recipe)
    hyper = recipe.hyper.override(given(arguments, HyperParameters.model_fields))
    try:
        settings = Settings(**given(arguments, Settings.model_fields))
    except ValidationError as error:
        raise option_error(error) from error
    kind = (arguments.data or recipe.data).partition(":")[0]
    own_name = recipe.name if kind == recipe.data else f"{recipe.name}-{kind}"
    with cpu_threads(settings.threads or recipe.threads):
        outcome = pipeline.run(
            recipe,
            hyper,
            settings=settings,
            progress=open_progress(sys.stdout),
            data=arguments.data,
            publish_as=(arguments.name or own_name) if arguments.publish else None,
        )
    print(_measured(outcome, recipe))
    print(_published(outcome, settings))
    return 0


def _measured(outcome: Outcome, recipe: Recipe) -> str:
    evaluation = outcome.evaluation
    expected = f" (expected: at least {recipe.expected:.1%})" if evaluation.data == recipe.measured_on else ""
    return (
        f"trained in {outcome.training_seconds:.1f} s\n"
        f"{evaluation.data}: loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
        f"of {evaluation.n:,} images{expected}\n"
        f"calibration error {evaluation.calibrated.ece:.2%} at temperature {evaluation.calibrated.temperature:g}"
        f" ({evaluation.uncalibrated.ece:.2%} without)"
    )


def _published(outcome: Outcome, settings: Settings) -> str:
    manifest = outcome.manifest
    if manifest is None:
        return "not published; run it again with --publish to write it to the registry"
    body = {
        "image": "--data-binary @digit.png -H 'content-type: image/png'",
        "features": """--json '{"features": [[...]]}'""",
    }[manifest.input.kind]
    return (
        f"published {manifest.name}@{manifest.version}\n"
        f"  path    {settings.registry.rstrip('/')}/{manifest.name}/{manifest.version}/{ARTIFACT}\n"
        f"  size    {manifest.artifact.size_bytes:,} bytes\n"
        f"  sha256  {manifest.artifact.sha256}\n"
        f"serve it:  python -m service --registry {settings.registry}\n"
        f"ask it:    curl {body} 'localhost:8000/predict?model={manifest.name}'"
    )


if __name__ == "__main__":
    sys.exit(main())
