"""The options that commands share, and how wrong ones are refused. Imports little: `health` must start fast."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from service.commands.environment import default_url

EXIT_CODES = "exit codes: 0 done, 1 failed{partly}, 2 wrong usage, 130 interrupted, 143 terminated"

REQUIRED = "the following arguments are required: "
UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """A parser that knows no abbreviations (they break, or change meaning, when an option is added), whose help keeps
    the lines of its examples, and whose errors are one line.
    """

    def __init__(self, command: str, *, epilog: str, **options: Any) -> None:
        super().__init__(
            prog=f"python -m service {command}".strip(),
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Say what is required and what was given, and exit with 2."""
        if message.startswith(REQUIRED):
            message = f"{message.removeprefix(REQUIRED)} must be given. Given: nothing"
        elif message.startswith(UNKNOWN):
            message = f"options must be those of --help, in full. Given: {message.removeprefix(UNKNOWN)}"
        self.exit(2, f"error: {message.removeprefix('argument ')}. See: {self.prog} --help\n")


def add_connection(parser: Parser, *, retry_seconds: float = 3.0) -> None:
    """--url, --api-key-file, --timeout-seconds and --retry-seconds, as one group."""
    group = add_address(parser)
    group.add_argument(
        "--api-key-file",
        dest="api_key",
        type=api_key,
        metavar="FILE",
        help="File whose first line is the API key; a key on the command line would be seen by others.",
    )
    group.add_argument(
        "--retry-seconds",
        type=number(float, 0),
        default=retry_seconds,
        metavar="N",
        help="How long to ask again while the service is busy or away. Default: %(default)g",
    )


def add_address(parser: Parser, *, timeout_seconds: float = 30.0) -> argparse._ArgumentGroup:
    """--url and --timeout-seconds, as the group that is returned."""
    group = parser.add_argument_group("the service")
    group.add_argument(
        "--url",
        type=url,
        default=default_url(),
        help="Where the service is. Default: SERVICE_URL, or this machine at SERVICE_PORT; here %(default)s",
    )
    group.add_argument(
        "--timeout-seconds",
        type=number(float, 0.001),
        default=timeout_seconds,
        metavar="N",
        help="Longest wait for an answer. Default: %(default)g",
    )
    return group


def add_choice(parser: Parser) -> None:
    """--model and --version."""
    parser.add_argument("--model", metavar="NAME", help="Which model answers. Default: the service's own default.")
    parser.add_argument("--version", metavar="V", help="Which version of it: a number or an alias such as production.")


def url(text: str) -> str:
    """Return an http or https address, without a slash at its end."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_good = is_good and not (parts.query or parts.fragment)
        (parts.hostname or "").encode("idna")  # as the resolver will have it
    except ValueError:  # a port that is no number, a bracket that is not closed, a part of the name that is too long
        is_good = False
    if not is_good:
        raise argparse.ArgumentTypeError(f"must be an address as http://host:8000. Given: {text!r}")
    return text.rstrip("/")


def api_key(path: str) -> str:
    """Return the first line of a file."""
    try:
        lines = Path(path).read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"must be a readable text file. Given: {path}: {error}") from error
    key = lines[0].strip()
    if not (key and key.isprintable()):
        raise argparse.ArgumentTypeError(
            f"must hold the key in its first line. Given: {path}, whose first {'cannot be one' if key else 'is empty'}"
        )
    return key


def file(path: str) -> bytes:
    """Return the content of a file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"must be readable files. Given: {path}: {error.strerror}") from error


def text(given: str) -> str:
    """Return what was given, which must not be empty, as a variable of a script may be that nobody set."""
    if not given:
        raise argparse.ArgumentTypeError("must not be empty. Given: ''")
    return given


def path(given: str) -> Path:
    """Return a path, likewise: an empty one would be the current folder."""
    return Path(text(given))


def number(kind: type[int] | type[float], least: float) -> Callable[[str], float]:
    """Return a parser of finite numbers that are at least `least`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} of at least {least:g}. Given: {text!r}")
        return value

    return parse
