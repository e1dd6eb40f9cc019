"""`rollback`: return to the version that was in production before."""

from __future__ import annotations

import argparse

from training.cli.common import add_registry_options, registry_from

HELP = "Serve what was in production before."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_registry_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Roll back and say what was replaced."""
    before, now = registry_from(arguments).rollback(arguments.model)
    print(f"production of {arguments.model} is now {now} (before: {before})")
    return 0
