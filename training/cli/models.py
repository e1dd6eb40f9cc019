"""`models`: show every version of every model."""

from __future__ import annotations

import argparse

from training.cli import listing
from training.cli.common import MACHINE, print_table, registry_from
from training.cli.options import add_options as add_options_of
from training.settings import Settings

HELP = "Show the registry's versions and which ones are served."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_options_of(parser, Settings, title=MACHINE, default="{default}", only=["registry"])


def run(arguments: argparse.Namespace) -> int:
    """Print the models of the registry."""
    registry = registry_from(arguments)
    table = listing.models(registry)
    if table.row_count:
        return print_table(table)
    print(f"{registry.url} holds no model. Name another registry with --registry, such as the shipped one, models.")
    return 0
