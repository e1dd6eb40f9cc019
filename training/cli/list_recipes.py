"""`list`: show the recipes."""

from __future__ import annotations

import argparse

from training.cli import listing
from training.cli.common import print_table

HELP = "Show the recipes and what each one reaches."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: this command has no options."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Print the recipes."""
    del arguments
    return print_table(listing.recipes())
