"""`models`: what a service serves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from service.client import ClientError, ModelInfo, Models
from service.commands.asking import open_client
from service.commands.options import EXIT_CODES, Parser, add_connection
from service.commands.output import fail, print_table

_HEADER = ("model", "version", "answers", "aliases", "ready", "input", "classes", "digest")


def main(arguments: Sequence[str]) -> int:
    """Print the models; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with open_client(options) as client:
            models = client.models()
    except ClientError as error:
        return fail(error)
    if options.json:
        print(json.dumps(dataclasses.asdict(models), ensure_ascii=False))
    else:
        print_table(_HEADER, [_row(model, models) for model in models.models])
    return 0


def _row(model: ModelInfo, models: Models) -> tuple[str, ...]:
    answers = "by default" if model.default and model.name == models.default else "by name" if model.default else ""
    shape = "x".join(str(size) for size in model.input["shape"])
    kind = model.input.get("colour") or model.input.get("kind", "")
    first = ", ".join(model.classes[:3])
    classes = f"{len(model.classes)}: {first}{', ...' if len(model.classes) > 3 else ''}"
    aliases = ", ".join(model.aliases)
    ready = "yes" if model.ready else "no"
    return (model.name, str(model.version), answers, aliases, ready, f"{shape} {kind}", classes, model.digest[:12])


def _parser() -> Parser:
    parser = Parser(
        "models",
        description="List what a service serves: one line for each version of each model.\n"
        '"answers" says when: by default, when only the model is named, or (empty) when the version is.',
        epilog="examples:\n"
        "  python -m service models\n"
        "  python -m service models --json | jq -r '.models[].name'\n\n" + EXIT_CODES.format(partly=""),
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object in place of the table.")
    add_connection(parser)
    return parser
