"""`train`: train a recipe once, and publish it if asked."""

from __future__ import annotations

import argparse
import sys

from training import pipeline
from training.adaptation import adapt
from training.cli import summary
from training.cli.common import (
    add_machine_options,
    add_run_options,
    hyper_given,
    model_name,
    recipe_from,
    settings_from,
)
from training.data.sources import is_own
from training.errors import DivergedError, TrainingError
from training.learning import device as devices
from training.learning.distributed import joined
from training.learning.progress import NoProgress, open_progress
from training.settings import Settings

HELP = "Train a recipe, and publish it with --publish."
DESCRIPTION = (
    "Train a recipe, measure it on the test split, and with --publish write it to the registry as the model's next "
    "version, which a running service picks up unless another one was promoted."
)
EPILOG = (
    "Exit codes: 0 done; 1 it failed, also when the run diverged or the quality gate refused to publish it; 2 a wrong "
    "option; 130 interrupted; 143 terminated. Example: python -m training train neural_net --data-dir PATH --publish"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_run_options(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="Publish a model that is below its recipe's floor or worse than production; its manifest says so.",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on from the last checkpoint of the same recipe, hyper-parameters and data, if there is one.",
    )
    add_machine_options(parser, Settings)


def run(arguments: argparse.Namespace) -> int:
    """Train, and return the exit code."""
    settings = settings_from(arguments, Settings)
    device = devices.choose(settings.device)
    recipe, given = recipe_from(arguments), hyper_given(arguments)
    hyper = recipe.hyper_on(device).override(given)
    devices.keep_freed_memory()
    threads = devices.cpu_threads(settings.threads or recipe.threads)
    with joined(device) as world, threads, devices.no_denormals():
        train_split = None
        if is_own(arguments.data or ""):
            train_split = pipeline.load_split(recipe, hyper, "train", data=arguments.data, settings=settings)
            hyper = adapt(hyper, train_split, chosen=given)
        outcome = pipeline.run(
            recipe,
            hyper,
            settings=settings,
            progress=open_progress(sys.stdout, log_every=settings.log_every) if world.leads else NoProgress(),
            data=arguments.data,
            publish_as=model_name(arguments, recipe) if arguments.publish and world.leads else None,
            force=arguments.force,
            resume=arguments.resume,
            train_split=train_split,
            world=world,
        )
        if not world.leads:
            return 0
    print(summary.measured(outcome))
    refused = outcome.refusal is not None and outcome.manifest is None
    if outcome.trouble is not None and outcome.manifest is None and not refused:
        raise DivergedError(summary.remedy(outcome, recipe))
    if refused or outcome.trouble is not None:
        print(summary.remedy(outcome, recipe), file=sys.stderr)
    if refused:
        again = summary.command(arguments.words, "--resume", "--force")
        raise TrainingError(f"{outcome.refusal}. Nothing was published. To publish it all the same: {again}")
    if outcome.manifest is None:
        print(f"not published. To publish it: {summary.command(arguments.words, '--resume', '--publish')}")
    else:
        print(summary.published(outcome.manifest, settings, outcome.example))
    return 0
