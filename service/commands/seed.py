"""`seed`: copy the models that a registry lacks into it from another one, so that a new registry can be served."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service.commands.options import EXIT_CODES, Parser
from service.commands.output import fail
from service.contract.registry import Registry, RegistryError
from service.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Copy what is missing; return the exit code."""
    parser = Parser(
        "seed",
        description="Copy models into a registry that has no version of them: of each the version that is served,\n"
        "under its number. Models that have a version stay as they are. It may run in several places at once.",
        epilog="example:\n  python -m service seed --source /app/models --registry s3://bucket/models\n\n"
        f"{EXIT_CODES.format(partly='')}",
    )
    parser.add_argument("--source", metavar="URL", required=True, help="The registry to copy from.")
    parser.add_argument(
        "--registry",
        metavar="URL",
        default=Settings().registry,
        help="Where to. Default: SERVICE_REGISTRY, %(default)s",
    )
    options = parser.parse_args(arguments)
    try:
        seed(Registry(options.source), Registry(options.registry))
    except (RegistryError, ValueError, ImportError) as error:
        return fail(error)
    return 0


def seed(source: Registry, registry: Registry) -> None:
    """Copy the served version of each model that `registry` holds no version of.

    Raises:
        RegistryError: `source` cannot be read, or `registry` not written.
    """
    for model in source.models():
        if not registry.versions(model):
            version = source.resolve(model)
            registry.adopt(source, model, version)
            print(f"copied {model}@{version} to {registry.url}", file=sys.stderr)
