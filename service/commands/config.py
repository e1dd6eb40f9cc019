"""`config`: the settings with which `serve` would run here, and where each comes from; without secrets."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence

from service.commands.options import EXIT_CODES, Parser
from service.commands.output import print_table
from service.commands.serve import add_settings, given_settings, make_settings
from service.settings import Settings, ignored_variables

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=\?).+")
"""In a URL: a user with a password, and a query, which may hold a token."""

_HIDDEN = "***"


def main(arguments: Sequence[str]) -> int:
    """Print the settings; return the exit code."""
    options = _parser().parse_args(arguments)
    given = given_settings(options)
    settings = make_settings(given)
    if settings is None:
        return 2
    values = {name: _shown(getattr(settings, name)) for name in Settings.model_fields}
    if options.json:
        print(json.dumps(values))
        return 0
    sources = {name: "option" if name in given else "environment" for name in settings.model_fields_set}
    rows = [(name, "" if value is None else str(value), sources.get(name, "default")) for name, value in values.items()]
    print_table(("setting", "value", "from"), rows)
    if ignored := ignored_variables(os.environ):
        print(f"no settings, and ignored: {', '.join(ignored)}", file=sys.stderr)
    return 0


def _shown(value: object) -> object:
    return _CREDENTIALS.sub(_HIDDEN, value) if isinstance(value, str) else value


def _parser() -> Parser:
    parser = Parser(
        "config",
        description="Show the settings with which serve would run here: by its options, which this command takes too,\n"
        "the environment (SERVICE_*) and defaults. Passwords and tokens in URLs are left out.",
        epilog="examples:\n"
        "  python -m service config\n"
        "  kubectl exec deploy/argmax -- python -m service config --json\n\n" + EXIT_CODES.format(partly=""),
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object in place of the table.")
    add_settings(parser)
    return parser
