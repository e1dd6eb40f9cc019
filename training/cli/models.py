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
    return print_table(listing.models(registry_from(arguments)))
