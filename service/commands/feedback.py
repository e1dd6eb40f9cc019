"""`feedback`: what should predictions have been, and how often were they right?"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from service.client import Client, ClientError, LiveAccuracy
from service.commands.asking import open_client
from service.commands.options import EXIT_CODES, Parser, add_connection, number
from service.commands.output import fail, print_table

ACTIONS = ("accuracy", "tell", "pairs")


def main(arguments: Sequence[str]) -> int:
    """Tell a truth, or print what the service knows of those; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.action == "tell") != (options.label is not None):
        required = "tell must have ID and LABEL" if options.action == "tell" else f"{options.action} takes no ID"
        parser.error(f"{required}. Given: {options.id or 'neither'}")
    try:
        with open_client(options) as client:
            {"accuracy": _accuracy, "tell": _tell, "pairs": _pairs}[options.action](client, options)
    except ClientError as error:
        return fail(error)
    return 0


def _accuracy(client: Client, options: argparse.Namespace) -> None:
    found = client.accuracies()
    if options.json:
        print(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        print_table(("model", "version", "labelled", "right", "accuracy", "95 % interval"), list(map(_row, found)))


def _row(found: LiveAccuracy) -> tuple[str, ...]:
    share = "-" if found.accuracy is None else f"{found.accuracy:.2%}"
    interval = "-" if found.interval is None else "{:.2%} to {:.2%}".format(*found.interval)
    return (found.model, str(found.version), str(found.n), str(found.right), share, interval)


def _tell(client: Client, options: argparse.Namespace) -> None:
    told = client.feedback(options.id, options.label, index=options.index)
    predicted = "no label" if told.prediction is None else told.prediction
    print(f"{told.model}@{told.version} said {predicted}, which is {told.outcome}: {told.truth}")


def _pairs(client: Client, _: argparse.Namespace) -> None:
    for pair in client.pairs():
        print(json.dumps(pair, ensure_ascii=False))


def _action(text: str) -> str:
    if text not in ACTIONS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(ACTIONS)}. Given: {text!r}")
    return text


def _parser() -> Parser:
    parser = Parser(
        "feedback",
        usage="python -m service feedback [ACTION] [ID LABEL] [options]",
        description="Show how often predictions were right (accuracy), tell a service what a prediction should have\n"
        "been (tell), or print all predictions with their truths, a JSON object a line (pairs).\n"
        "ID is the X-Request-ID of the answer. The service must have been started with --feedback-predictions.",
        epilog="examples:\n"
        "  python -m service feedback\n"
        "  python -m service predict --json digit.png | jq -r .request_id\n"
        "  python -m service feedback tell 1f3ca4a4-2 7\n"
        "  python -m service feedback pairs > pairs.jsonl\n\n" + EXIT_CODES.format(partly=""),
    )
    parser.add_argument(
        "action",
        nargs="?",
        type=_action,
        default="accuracy",
        metavar="ACTION",
        help=f"One of {', '.join(ACTIONS)}. Default: %(default)s",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="Of the request that was predicted for.")
    parser.add_argument("label", nargs="?", metavar="LABEL", help="The class that is right, by its name.")
    parser.add_argument(
        "--index",
        type=number(int, 0),
        metavar="N",
        help="Which of several predictions, from 0.",
    )
    parser.add_argument("--json", action="store_true", help="With accuracy: print JSON in place of the table.")
    add_connection(parser)
    return parser
