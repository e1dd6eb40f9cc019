"""`promote`: put one version into production."""

from __future__ import annotations

import argparse

from training.cli.common import add_registry_options, registry_from
from training.errors import OptionError

HELP = "Serve this version of a model, whichever is published later."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_registry_options(parser, version="A number or an alias.")


def run(arguments: argparse.Namespace) -> int:
    """Promote the version and say what it replaced."""
    if not arguments.version:  # as a script gives whose variable is not set
        raise OptionError("VERSION must be a number or an alias. Given: ''")
    registry = registry_from(arguments)
    history = registry.promote(arguments.model, registry.resolve(arguments.model, arguments.version))
    before = f" (before: {history[-2]})" if len(history) > 1 else ""
    print(f"production of {arguments.model} is now {history[-1]}{before}")
    return 0
