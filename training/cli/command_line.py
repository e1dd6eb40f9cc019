"""The command line of the training half: train a recipe, and look after the versions in a registry.

Knows what people type and read; what happens in between is `pipeline.run` and the registry's business.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console, RenderableType

from service.contract.registry import Registry, RegistryError
from training import job, pipeline
from training.cli import listing, summary
from training.cli.job_metrics import Figures
from training.cli.options import Parser, add_options, given
from training.cli.republish import republish
from training.data.sources import OWN, SOURCES
from training.errors import OptionError, TrainingError, option_error
from training.hyper_parameters import HyperParameters
from training.learning import device as devices
from training.learning.distributed import joined
from training.learning.progress import NoProgress, open_progress
from training.recipes import RECIPES, Recipe, find
from training.settings import JobSettings, Settings

AnySettings = TypeVar("AnySettings", bound=Settings)

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
    _add_run(
        command(
            "run",
            _run,
            "Train, publish and promote as a job: again or twice at once does no harm.",
            description="Do of a run what is still to be done: train (from the last checkpoint, if there is one), "
            "publish what the gate lets through, promote what is better than production on the same data. The same "
            "recipe, hyper-parameters, data, seed and code are the same run; one that has published is not trained "
            "again.",
            epilog="Exit codes: 0 done, also when there was nothing left to do or production is no worse; "
            f"{job.REFUSED} the gate refused it, as it will again; {job.TRY_AGAIN} try again: the registry or a "
            "download cannot be reached, or SIGTERM came; 1 it failed; 2 a wrong option; 130 interrupted. "
            "Example: python -m training run neural_net --publish --promote-if-better",
        )
    )
    models = command("models", _models, "Show what is in the registry and what is served of it.")
    show = command("show", _show, "Show all that one version says of itself.")
    promote = command("promote", _promote, "Serve this version of a model, whichever is published later.")
    rollback = command("rollback", _rollback, "Serve what was in production before.")
    republish = command(
        "republish", _republish, "Publish a version once more, with evidence for its forms measured here."
    )
    for one in (show, promote, rollback, republish):
        one.add_argument("model", metavar="MODEL", help="A model of the registry.")
    show.add_argument("version", metavar="VERSION", nargs="?", help="A number or an alias. Default: what is served.")
    promote.add_argument("version", metavar="VERSION", help="A number or an alias.")
    for one in (models, show, promote, rollback):
        add_options(one, Settings, title="this machine", default="{default}", only=["registry"])
    add_options(republish, Settings, title="this machine", default="{default}", only=["registry", "data_dir", "device"])
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    _add_what(train)
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
    _add_how(train, Settings)


def _add_run(run: argparse.ArgumentParser) -> None:
    _add_what(run)
    run.add_argument(
        "--promote-if-better",
        action="store_true",
        help="Serve it if it is more accurate than what is in production, on the same data; else that stays.",
    )
    _add_how(run, JobSettings)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=f"What to train: {', '.join(RECIPES)}.")
    parser.add_argument("--data", metavar="NAME", help=f"Train on other data: {', '.join([*SOURCES, *OWN])}.")
    parser.add_argument("--publish", action="store_true", help="Write the result to the registry.")
    parser.add_argument("--name", help="Publish as this model. Default: the recipe's name, with --data NAME after it.")


def _add_how(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    add_options(parser, settings, title="this machine (also TRAINING_X in the environment)", default="{default}")
    add_options(parser, HyperParameters, title="hyper-parameters", default="the recipe's")


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


def _republish(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments, Settings)
    with devices.no_denormals():
        manifest = republish(
            _registry(arguments),
            arguments.model,
            data_dir=settings.data_dir,
            device=devices.choose(settings.device),
        )
    print(summary.published(manifest, settings))
    return 0


def _registry(arguments: argparse.Namespace) -> Registry:
    return pipeline.open_registry(_settings(arguments, Settings).registry)


def _settings(arguments: argparse.Namespace, kind: type[AnySettings]) -> AnySettings:
    try:
        return kind(**given(arguments, kind.model_fields))
    except ValidationError as error:
        raise option_error(error) from error


def _print(table: RenderableType) -> int:
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # 80 columns in a pipe would wrap
    return 0


def _train(arguments: argparse.Namespace) -> int:
    recipe = find(arguments.recipe)
    settings = _settings(arguments, Settings)
    device = devices.choose(settings.device)
    hyper = recipe.hyper_on(device).override(given(arguments, HyperParameters.model_fields))
    devices.keep_freed_memory()
    threads = devices.cpu_threads(settings.threads or recipe.threads)
    with joined(device) as world, threads, devices.no_denormals():
        outcome = pipeline.run(
            recipe,
            hyper,
            settings=settings,
            progress=open_progress(sys.stdout) if world.leads else NoProgress(),
            data=arguments.data,
            publish_as=_name(arguments, recipe) if arguments.publish and world.leads else None,
            force=arguments.force,
            resume=arguments.resume,
            world=world,
        )
        if not world.leads:
            return 0
    print(summary.measured(outcome, recipe))
    if outcome.refusal is not None and outcome.manifest is None:
        raise TrainingError(
            f"{outcome.refusal}. Nothing was published; --force publishes it all the same, and with --resume at once."
        )
    print(summary.published(outcome.manifest, settings))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    recipe = find(arguments.recipe)
    # Not `hyper_on`: on another kind of node, the same command must be the same run.
    hyper = recipe.hyper.override(given(arguments, HyperParameters.model_fields))
    settings = _settings(arguments, JobSettings)
    if arguments.promote_if_better and not arguments.publish:
        raise OptionError("--promote-if-better must be given with --publish. Given: alone")
    name = _name(arguments, recipe)
    devices.keep_freed_memory()
    began, code, result = time.monotonic(), 1, None
    try:
        threads = devices.cpu_threads(settings.threads or recipe.threads)
        with job.stopped_by_sigterm(), threads, devices.no_denormals():
            result = job.run(
                recipe,
                hyper,
                settings=settings,
                progress=open_progress(sys.stdout),
                data=arguments.data,
                publish_as=name if arguments.publish else None,
                promote=arguments.promote_if_better,
            )
        code = _told(result, recipe, settings)
    except (TrainingError, RegistryError) as error:
        code = job.exit_code(error)
        print(f"error: {error}", file=sys.stderr)
    except job.Stopped:
        code = job.TRY_AGAIN
        print("stopped by SIGTERM; the same command goes on from the last checkpoint", file=sys.stderr)
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    finally:
        _figures(name, code, result, seconds=time.monotonic() - began).send(settings)
    return code


def _told(result: job.Result, recipe: Recipe, settings: Settings) -> int:
    """Print what a job gave, and return its exit code."""
    if result.outcome is None and result.manifest is not None:
        print(f"already published as {result.manifest.name}@{result.manifest.version}: nothing to train")
    if result.outcome is not None:
        print(summary.measured(result.outcome, recipe))
        if result.outcome.refusal is not None:
            print(f"error: {result.outcome.refusal}. Nothing was published.", file=sys.stderr)
            return job.REFUSED
        published = result.manifest is not None
        print(summary.published(result.manifest, settings) if published else "not published; --publish does that")
    if result.decision is not None:
        print(result.decision)
    return 0


def _figures(name: str, code: int, result: job.Result | None, *, seconds: float) -> Figures:
    version = result.manifest.version if result is not None and result.manifest is not None else None
    metrics = result.metrics if result is not None else ()
    return Figures(name, exit_code=code, seconds=seconds, metrics=metrics, version=version)


def _name(arguments: argparse.Namespace, recipe: Recipe) -> str:
    kind = (arguments.data or recipe.data).partition(":")[0]
    return str(arguments.name or (recipe.name if kind == recipe.data else f"{recipe.name}-{kind}"))
