"""`keys`: make, list and remove the API keys of a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from service.api import keys
from service.api.keys import SCOPES, KeysError
from service.commands.options import Parser, number
from service.commands.output import fail, print_table

ACTIONS = ("make", "list", "remove")


def main(arguments: Sequence[str]) -> int:
    """Change or show a file of keys; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.file is None:
        parser.error("--file must be given, here or as SERVICE_API_KEYS_FILE. Given: neither")
    if (options.action == "list") != (options.name is None):
        required = "list takes no NAME" if options.name else f"{options.action} must have the NAME of a key"
        parser.error(f"{required}. Given: {options.name or 'none'}")
    try:
        if options.action == "make":
            return _make(options)
        if options.action == "remove":
            keys.remove(options.file, options.name)
            return 0
        return _list(options.file)
    except (KeysError, OSError) as error:
        return fail(error)


def _make(options: argparse.Namespace) -> int:
    quotas = {"requests": options.requests_per_second, "images": options.images_per_second}
    print(keys.add(options.file, options.name, options.scopes, **quotas))
    print(f"This is the only time that the key is shown; {options.file} holds its hash.", file=sys.stderr)
    return 0


def _list(path: Path) -> int:
    print_table(
        ("name", "scopes", "sha256", "a second"),
        [(key.name, ",".join(sorted(key.scopes)), key.sha256[:12], key.quota) for key in keys.read(path)],
    )
    return 0


def _action(text: str) -> str:
    if text not in ACTIONS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(ACTIONS)}. Given: {text!r}")
    return text


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(text.split(","))
    if not scopes <= SCOPES:
        raise argparse.ArgumentTypeError(f"must be of {','.join(sorted(SCOPES))}, joined by commas. Given: {text!r}")
    return scopes


def _parser() -> Parser:
    default = os.environ.get("SERVICE_API_KEYS_FILE")
    parser = Parser(
        "keys",
        usage="python -m service keys ACTION [NAME] [options]",
        description="Make, list or remove the API keys of a file, the one that serve takes as --api-keys-file.\n"
        "The file holds hashes alone; a running service reads it again when it changes.\n"
        "NAME says whose the key is; it is shown once, on standard output.",
        epilog="examples:\n"
        "  python -m service keys make ci --file keys > ci.key\n"
        "  python -m service predict digit.png --api-key-file ci.key\n"
        "  python -m service keys make batch --file keys --requests-per-second 5 --images-per-second 500\n"
        "  python -m service keys list --file keys\n"
        "  python -m service keys remove ci --file keys\n\n"
        "exit codes: 0 done, 1 failed, 2 wrong usage",
    )
    parser.add_argument("action", type=_action, metavar="ACTION", help=f"One of {', '.join(ACTIONS)}.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="Of the key to make or remove.")
    parser.add_argument(
        "--file",
        type=Path,
        default=default,
        metavar="FILE",
        help="The file of keys. Default: SERVICE_API_KEYS_FILE in the environment"
        + (f", here {default}" if default else ""),
    )
    parser.add_argument(
        "--scopes",
        type=_scopes,
        default=frozenset({"predict"}),
        metavar="SCOPES",
        help=f"What a new key is for: {','.join(sorted(SCOPES))}, joined by commas. Default: predict",
    )
    for what in ("requests", "images"):
        parser.add_argument(
            f"--{what}-per-second",
            type=number(float, 0.001),
            default=0.0,
            metavar="N",
            help=f"Most {what} a second for a new key; beyond it the answer is 429. Default: no limit",
        )
    return parser
