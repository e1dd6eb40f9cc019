"""`run`: train, publish and promote as a job that may be repeated."""

from __future__ import annotations

import argparse
import sys
import time

from service.contract.registry import RegistryError
from training import job
from training.cli import summary
from training.cli.common import (
    INTERRUPTED,
    add_machine_options,
    add_run_options,
    hyper_given,
    model_name,
    recipe_from,
    settings_from,
)
from training.cli.job_metrics import Figures
from training.errors import OptionError, TrainingError
from training.learning import device as devices
from training.learning.distributed import joined
from training.learning.progress import NoProgress, open_progress
from training.recipe import Recipe
from training.settings import JobSettings, Settings

HELP = "Train, publish and promote as a job: repeating it or running it twice at once does no harm."
DESCRIPTION = (
    "Do what is left of a run: train (from the last checkpoint, if there is one), publish what the quality gate "
    "accepts, promote what is better than production on the same held-out data. The same recipe, hyper-parameters, "
    "data, seed and code are the same run; a run that has published is not trained again."
)
EPILOG = (
    "Exit codes: 0 done, also when nothing was left to do or production is no worse; "
    f"{job.REFUSED} it diverged or the quality gate refused it, as would happen again; {job.TRY_AGAIN} try again: the "
    "registry or a download cannot be reached, or SIGTERM came; 1 it failed; 2 a wrong option; 130 interrupted; "
    "143 SIGTERM came while Python was still importing. "
    "Example: python -m training run neural_net --publish --promote-if-better"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_run_options(parser)
    parser.add_argument(
        "--promote-if-better",
        action="store_true",
        help="Serve it if it is more accurate than what is in production, on the same held-out data; else that stays.",
    )
    add_machine_options(parser, JobSettings)


def run(arguments: argparse.Namespace) -> int:
    """Run the job, send its metrics, and return the exit code."""
    recipe, given = recipe_from(arguments), hyper_given(arguments)
    # Not `hyper_on`: on another kind of node, the same command must be the same run.
    hyper = recipe.hyper.override(given)
    settings = settings_from(arguments, JobSettings)
    if arguments.promote_if_better and not arguments.publish:
        raise OptionError("--promote-if-better must be given with --publish. Given: alone")
    name = model_name(arguments, recipe)
    devices.keep_freed_memory()
    began, code, result, leads = time.monotonic(), 1, None, True
    try:
        threads = devices.cpu_threads(settings.threads or recipe.threads)
        with (
            job.stopped_by_sigterm(),
            joined(devices.choose(settings.device)) as world,
            threads,
            devices.no_denormals(),
        ):
            leads = world.leads
            result = job.run(
                recipe,
                hyper,
                settings=settings,
                progress=open_progress(sys.stdout, log_every=settings.log_every) if leads else NoProgress(),
                data=arguments.data,
                publish_as=name if arguments.publish else None,
                promote=arguments.promote_if_better,
                world=world,
                chosen=given,
            )
        code = _told(result, recipe, settings) if leads else 0
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
        if leads:
            _figures(name, code, result, seconds=time.monotonic() - began).send(settings)
    return code


def _told(result: job.Result, recipe: Recipe, settings: Settings) -> int:
    """Print what a job gave, and return its exit code."""
    if result.outcome is None and result.manifest is not None:
        print(f"already published as {result.manifest.name}@{result.manifest.version}: nothing to train")
    if result.outcome is not None:
        print(summary.measured(result.outcome))
        if result.outcome.refusal is not None or result.outcome.trouble is not None:
            print(summary.remedy(result.outcome, recipe), file=sys.stderr)
        if result.outcome.refusal is not None:
            print(f"error: {result.outcome.refusal}. Nothing was published.", file=sys.stderr)
            return job.REFUSED
        if result.manifest is None and result.outcome.trouble is not None:
            return job.REFUSED
        if result.manifest is None:
            print("not published; --publish does that")
        else:
            print(summary.published(result.manifest, settings, result.outcome.example))
    if result.decision is not None:
        print(result.decision)
    return 0


def _figures(name: str, code: int, result: job.Result | None, *, seconds: float) -> Figures:
    version = result.manifest.version if result is not None and result.manifest is not None else None
    metrics = result.metrics if result is not None else ()
    return Figures(name, exit_code=code, seconds=seconds, metrics=metrics, version=version)
