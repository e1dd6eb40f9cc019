"""`republish`: publish the version that is served once more, with everything but its training measured again."""

from __future__ import annotations

import argparse

from training.cli import summary
from training.cli.common import MACHINE, settings_from
from training.cli.options import add_options as add_settings
from training.data.cache import Cache
from training.learning import device as devices
from training.publishing.destination import expect_one_registry, open_registry
from training.publishing.republish import republish
from training.settings import Settings

HELP = "Publish the version that is served once more, measured again here."
DESCRIPTION = (
    "Publish the version that is served as the model's next one, without training. What was set on held-out examples "
    "(temperature, outlier scores, prediction sets, distributions) is set again, and the evidence for faster forms is "
    "measured again."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("model", metavar="MODEL", help="A model of the registry.")
    only = ["registry", "sign", "data_dir", "cache_dir", "device"]
    add_settings(parser, Settings, title=MACHINE, default="{default}", only=only)


def run(arguments: argparse.Namespace) -> int:
    """Republish what is served, and print what was published."""
    settings = settings_from(arguments, Settings)
    expect_one_registry(settings.registry)
    with devices.no_denormals():
        manifest = republish(
            open_registry(settings.registry, sign=settings.sign),
            arguments.model,
            data_dir=settings.data_dir,
            device=devices.choose(settings.device),
            cache=Cache(settings.cache_dir),
        )
    print(summary.published(manifest, settings))
    return 0
