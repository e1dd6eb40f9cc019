"""The `serve` command: runs the service."""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from service import compiled
from service.commands import COMMANDS
from service.commands.options import Parser
from service.contract.registries import open_registry
from service.contract.registry import RegistryError
from service.contract.signatures import SignatureError, TrustedKeys
from service.processes import signals
from service.processes.run_folder import remove, run_folder
from service.settings import Settings, ignored_variables, variable

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; return the exit code: 0 stopped, 1 the service failed, 2 a wrong option or setting."""
    with signals.ending_at_once():
        settings = read_settings(arguments)
        if settings is None or not _can_begin(settings):
            return 2
    return serve(settings)


def _can_begin(settings: Settings) -> bool:
    """Return whether what the settings name is there; print what is not."""
    try:
        if settings.trusted_keys:
            TrustedKeys.read(Path(settings.trusted_keys))
        if settings.model_dir is None:
            # With a cache of its own a service may start without its registry.
            open_registry(settings.registry, must_exist=not settings.cache_dir)
    except (RegistryError, SignatureError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def read_settings(arguments: Sequence[str]) -> Settings | None:
    """Return the settings of the options and the environment; None, and a line for each, if any is wrong."""
    return make_settings(given_settings(_parser().parse_args(arguments)))


def given_settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the settings among the options that were given."""
    return {name: value for name in Settings.model_fields if (value := getattr(options, name)) is not None}


def make_settings(given: dict[str, str]) -> Settings | None:
    """Return the settings, those that are `given` before the environment's; None if one is wrong, which is printed."""
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic parses them
    except ValidationError as error:
        for problem in error.errors():
            if not problem["loc"]:  # a rule between several
                print(problem["msg"].removeprefix("Value error, "), file=sys.stderr)
                continue
            name = str(problem["loc"][0])
            where = f"--{name.replace('_', '-')}" if name in given else variable(name)
            print(f"{where}: {problem['msg']}. Given: {problem['input']!r}", file=sys.stderr)
    return None


def serve(settings: Settings) -> int:
    # Before torch is imported. A thread that waits for the others of a model call should not spin: where others want
    # the cores, it keeps those from computing for which it waits, and a call takes 4 to 25 times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    # Of 2.9 s of imports, 0.4 were spent looking for garbage among objects that stay for good.
    gc.disable()
    with run_folder() as folder:
        signals.end_at_once(functools.partial(remove, folder))
        from service.logs import configure_logging

        configure_logging(settings.log_level, settings.log_format)
        if names := ", ".join(compiled.outdated()):
            # Said before they are imported, which may fail.
            logger.warning(
                "changed since they were compiled, and run as they were: %s; `make serve` compiles them", names
            )
        from service.processes.restart_policy import ServiceFailed
        from service.processes.server import Server

        gc.enable()
        if ignored := ignored_variables(os.environ):
            logger.warning("no settings, and ignored: %s; see --help", ", ".join(ignored))
        try:
            Server(settings, folder).run()
        except (OSError, ServiceFailed, ValueError) as error:
            logger.error("the service stopped: %s", error)
            return 1
        finally:
            signals.ignore()
    return 0


def _parser() -> Parser:
    commands = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        "",
        usage="python -m service [COMMAND] [options]",
        description="Serve the models of a registry over HTTP, or ask a service that runs.\n\n"
        f"commands (each has its own --help):\n{commands}\n\n"
        "The options below are those of serve; each is an environment variable too, SERVICE_*.",
        epilog="example:\n  python -m service --registry models --port 8001\n\n"
        "exit codes: 0 stopped by a signal, 1 the service failed, 2 wrong usage",
    )
    add_settings(parser)
    return parser


def add_settings(parser: Parser) -> None:
    """Add an option for each setting."""
    for name, field in Settings.model_fields.items():
        default = "chosen by the number of cores" if field.default is PydanticUndefined else field.default
        default = "none" if default in (None, "") else default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description} [SERVICE_{name.upper()}; {default}]".replace("%", "%%"),
        )
