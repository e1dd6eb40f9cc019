"""The command line of the training half: train a recipe, and look after the versions in a registry.

Knows what people type and read; what happens in between is `pipeline.run` and the registry's business.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Console, RenderableType

from service.registry import ARTIFACT, Registry, RegistryError
from training import device as devices
from training import listing, pipeline
from training.distributed import joined
from training.errors import TrainingError, option_error
from training.hyper_parameters import HyperParameters
from training.options import Parser, add_options, given
from training.pipeline import Outcome
from training.progress import NoProgress, open_progress
from training.recipes import RECIPES, Recipe, find
from training.settings import Settings
from training.sources import OWN, SOURCES

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 an option is wrong, 130 interrupted."""
    try:
        arguments = _parser().parse_args(argv)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    try:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except RegistryError as error:
        untouched = " Nothing was published." if arguments.command == "train" else ""
        print(f"error: {error}{untouched}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: no half-written version is in the registry.", file=sys.stderr)
        if arguments.command == "train":
            print("--resume goes on from the last checkpoint.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description="Train classifiers and publish them for the service.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, **{"description": text, **more})
        added.set_defaults(run=run)
        return added

    command("list", _list, "Show the recipes and what each one reaches.")
    _add_train(
        command(
            "train",
            _train,
            "Train a recipe, and publish it with --publish.",
            description="Train a recipe, measure it on the test split, and with --publish write it to the registry as "
            "the model's next version, which a running service picks up unless another one was promoted.",
            epilog="Example: python -m training train neural_net --data-dir PATH --publish",
        )
    )
    models = command("models", _models, "Show what is in the registry and what is served of it.")
    show = command("show", _show, "Show all that one version says of itself.")
    promote = command("promote", _promote, "Serve this version of a model, whichever is published later.")
    rollback = command("rollback", _rollback, "Serve what was in production before.")
    for one in (show, promote, rollback):
        one.add_argument("model", metavar="MODEL", help="A model of the registry.")
    show.add_argument("version", metavar="VERSION", nargs="?", help="A number or an alias. Default: what is served.")
    promote.add_argument("version", metavar="VERSION", help="A number or an alias.")
    for one in (models, show, promote, rollback):
        add_options(one, Settings, title="this machine", default="{default}", only=["registry"])
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("recipe", metavar="RECIPE", help=f"What to train: {', '.join(RECIPES)}.")
    train.add_argument("--data", metavar="NAME", help=f"Train on other data: {', '.join([*SOURCES, *OWN])}.")
    train.add_argument("--publish", action="store_true", help="Write the result to the registry.")
    train.add_argument("--name", help="Publish as this model. Default: the recipe's name, with --data NAME after it.")
    train.add_argument(
        "--force",
        action="store_true",
        help="Publish a model that is below its recipe's floor or worse than production; its manifest says so.",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="Go on from the last checkpoint of the same recipe, hyper-parameters and data, if there is one.",
    )
    add_options(train, Settings, title="this machine (also TRAINING_X in the environment)", default="{default}")
    add_options(train, HyperParameters, title="hyper-parameters", default="the recipe's")


def _list(_: argparse.Namespace) -> int:
    return _print(listing.recipes())


def _models(arguments: argparse.Namespace) -> int:
    return _print(listing.models(_registry(arguments)))


def _show(arguments: argparse.Namespace) -> int:
    registry = _registry(arguments)
    manifest = registry.manifest(arguments.model, registry.resolve(arguments.model, arguments.version))
    return _print(listing.version(registry, manifest))


def _promote(arguments: argparse.Namespace) -> int:
    registry = _registry(arguments)
    history = registry.promote(arguments.model, registry.resolve(arguments.model, arguments.version))
    before = f" (before: {history[-2]})" if len(history) > 1 else ""
    print(f"production of {arguments.model} is now {history[-1]}{before}")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    before, now = _registry(arguments).rollback(arguments.model)
    print(f"production of {arguments.model} is now {now} (before: {before})")
    return 0


def _registry(arguments: argparse.Namespace) -> Registry:
    return pipeline.open_registry(_settings(arguments).registry)


def _settings(arguments: argparse.Namespace) -> Settings:
    try:
        return Settings(**given(arguments, Settings.model_fields))
    except ValidationError as error:
        raise option_error(error) from error


def _print(table: RenderableType) -> int:
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # 80 columns in a pipe would wrap
    return 0


def _train(arguments: argparse.Namespace) -> int:
    recipe = find(arguments.recipe)
    hyper = recipe.hyper.override(given(arguments, HyperParameters.model_fields))
    settings = _settings(arguments)
    devices.keep_freed_memory()
    kind = (arguments.data or recipe.data).partition(":")[0]
    own_name = recipe.name if kind == recipe.data else f"{recipe.name}-{kind}"
    with joined(devices.choose(settings.device)) as world, devices.cpu_threads(settings.threads or recipe.threads):
        outcome = pipeline.run(
            recipe,
            hyper,
            settings=settings,
            progress=open_progress(sys.stdout) if world.leads else NoProgress(),
            data=arguments.data,
            publish_as=(arguments.name or own_name) if arguments.publish and world.leads else None,
            force=arguments.force,
            resume=arguments.resume,
            world=world,
        )
        if not world.leads:
            return 0
    print(_measured(outcome, recipe))
    if outcome.refusal is not None and outcome.manifest is None:
        raise TrainingError(
            f"{outcome.refusal}. Nothing was published; --force publishes it all the same, and with --resume at once."
        )
    print(_published(outcome, settings))
    return 0


def _measured(outcome: Outcome, recipe: Recipe) -> str:
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


def _published(outcome: Outcome, settings: Settings) -> str:
    manifest = outcome.manifest
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


if __name__ == "__main__":
    sys.exit(main())
