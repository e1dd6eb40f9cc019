"""The shared parts of the commands: options of a run, settings from options, printing a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console, RenderableType

from service.contract.registry import Registry
from training.cli.options import add_options, filled, given
from training.data.sources import OWN, SOURCES
from training.errors import OptionError, option_error
from training.hyper_parameters import HyperParameters
from training.networks import weights
from training.publishing import earlier_version
from training.publishing.destination import open_registry
from training.recipe import Recipe
from training.recipes import RECIPES, expect_photographs, find, fine_tuned
from training.settings import Settings

AnySettings = TypeVar("AnySettings", bound=Settings)

HYPER_PARAMETERS = [name for name in HyperParameters.model_fields if name != "pretrained"]
"""Those with an option of their own; --pretrained names a file or a version."""

MACHINE = "this machine (also TRAINING_X in the environment)"
"""The title of the options that are settings."""

DOWNLOADED = object()
"""What --pretrained alone stands for: torchvision's own weights."""

INTERRUPTED = 130  # 128 + SIGINT, as in shells


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to train and whether to publish it."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"What to train: {', '.join(RECIPES)}.")
    parser.add_argument(
        "--data", metavar="NAME", type=filled, help=f"Train on other data: {', '.join([*SOURCES, *OWN])}."
    )
    parser.add_argument("--publish", action="store_true", help="Write the result to the registry.")
    parser.add_argument(
        "--name", type=filled, help="Publish as this model. Default: the recipe's name, with --data NAME after it."
    )
    parser.add_argument(
        "--pretrained",
        metavar="FILE|VERSION",
        type=filled,
        nargs="?",
        const=DOWNLOADED,
        help="With the folder of a published VERSION, such as models/mnist/6: go on training its network, which must "
        "be the recipe's. Else train torchvision's ResNet-18 in place of the recipe's network, from weights that "
        "torchvision downloads, or from those in FILE; for recipes for photographs, with --data folder:PATH.",
    )


def add_machine_options(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """Add an option for every setting of `settings` and every hyper-parameter."""
    add_options(parser, settings, title=MACHINE, default="{default}")
    add_options(parser, HyperParameters, title="hyper-parameters", default="the recipe's", only=HYPER_PARAMETERS)


def add_registry_options(
    parser: argparse.ArgumentParser, *, version: str | None = None, optional: bool = False
) -> None:
    """Add MODEL, VERSION if `version` describes it, and --registry."""
    parser.add_argument("model", metavar="MODEL", help="A model of the registry.")
    if version is not None:
        parser.add_argument("version", metavar="VERSION", nargs="?" if optional else None, help=version)
    add_options(parser, Settings, title=MACHINE, default="{default}", only=["registry"])


def settings_from(arguments: argparse.Namespace, kind: type[AnySettings]) -> AnySettings:
    """Return the settings of `kind`, from the environment and the options."""
    try:
        return kind(**given(arguments, kind.model_fields))
    except ValidationError as error:
        raise option_error(error) from error


def registry_from(arguments: argparse.Namespace) -> Registry:
    """Return the registry that the options name."""
    return open_registry(settings_from(arguments, Settings).registry)


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that the options name, with pretrained weights or an earlier version's if they say so.

    Raises:
        OptionError: there is no such recipe, or no weights for it.
        UnreachableError: the weights cannot be downloaded.
    """
    recipe, pretrained = find(arguments.recipe), arguments.pretrained
    if pretrained is None:
        return recipe
    if pretrained is not DOWNLOADED and earlier_version.is_version(pretrained):
        return recipe.continued(earlier_version.read(pretrained))
    if pretrained is not DOWNLOADED and not Path(pretrained).exists():
        raise OptionError(
            "pretrained must be a file that can be read, or the folder of a version such as models/mnist/6. "
            f"Given: {pretrained}, which is not there"
        )
    if (arguments.data or recipe.data).partition(":")[0] != "folder":
        raise OptionError(f"pretrained must be given with --data folder:PATH. Given: {arguments.data or recipe.data}")
    expect_photographs(recipe)
    return fine_tuned(recipe, weights.read(None if pretrained is DOWNLOADED else Path(pretrained)))


def hyper_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the hyper-parameters that the options name, as text (bool for flags)."""
    return given(arguments, HYPER_PARAMETERS)


def model_name(arguments: argparse.Namespace, recipe: Recipe) -> str:
    """Return the name to publish under: --name, or the recipe's default."""
    return str(arguments.name or recipe.model_name(arguments.data))


def print_table(table: RenderableType) -> int:
    """Print `table` and return 0."""
    width = None if sys.stdout.isatty() else 160  # 80 columns in a pipe would wrap
    Console(width=width, markup=False, emoji=False).print(table)  # a class may be called "[draft]" or ":cat:"
    return 0
