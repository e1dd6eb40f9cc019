"""`show`: show one version."""

from __future__ import annotations

import argparse

from training.cli import listing
from training.cli.common import add_registry_options, print_table, registry_from

HELP = "Show everything recorded about one version."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_registry_options(parser, version="A number or an alias. Default: what is served.", optional=True)


def run(arguments: argparse.Namespace) -> int:
    """Print one version's manifest."""
    registry = registry_from(arguments)
    manifest = registry.manifest(arguments.model, registry.resolve(arguments.model, arguments.version))
    return print_table(listing.version(registry, manifest))
