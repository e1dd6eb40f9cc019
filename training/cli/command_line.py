"""The command line of training: parses options and dispatches to the module of each command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from service import standard_streams
from service.contract.registry import RegistryError
from training.cli import keygen, list_recipes, models, promote, republish, rollback, run, show, train
from training.cli.common import INTERRUPTED
from training.cli.options import Parser
from training.cli.summary import command as command_again
from training.errors import TrainingError

_COMMANDS = {
    "list": list_recipes,
    "train": train,
    "run": run,
    "models": models,
    "show": show,
    "promote": promote,
    "rollback": rollback,
    "republish": republish,
    "keygen": keygen,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 an option is wrong, 130 interrupted."""
    return standard_streams.run(lambda: _run(sys.argv[1:] if argv is None else list(argv)))


def _run(words: list[str]) -> int:
    try:
        arguments = _parser().parse_args(words, argparse.Namespace(words=words))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except RegistryError as error:
        untouched = ". Nothing was published." if arguments.command == "train" else ""
        print(f"error: {str(error).rstrip('.')}{untouched}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: no half-written version is in the registry.", file=sys.stderr)
        if arguments.command == "train":
            print(f"To go on from the last checkpoint: {command_again(words, '--resume')}", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description="Train classifiers and publish them for the service.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in _COMMANDS.items():
        added = commands.add_parser(
            name,
            help=module.HELP,
            description=getattr(module, "DESCRIPTION", module.HELP),
            epilog=getattr(module, "EPILOG", None),
        )
        module.add_options(added)
        added.set_defaults(run=module.run)
    return parser
