"""`predict`: what do these images show?"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from service.client import ClientError, Prediction, PredictionError
from service.client.answers import Answer
from service.commands.asking import open_client
from service.commands.options import EXIT_CODES, Parser, add_choice, add_connection, number
from service.commands.output import fail, print_table

STDIN = "-"


def main(arguments: Sequence[str]) -> int:
    """Print a prediction for each file; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.files:
        parser.error("FILES must be at least one image, or - for standard input. Given: none")
    if options.files.count(STDIN) > 1:
        parser.error("FILES must hold - at most once. Given: it twice")
    if options.probabilities and not options.json:
        parser.error("--probabilities must come with --json, a table has no room for them. Given: it alone")
    wanted = {
        name: getattr(options, name) for name in ("model", "version", "top_k", "probabilities", "abstain", "coverage")
    }
    images = [sys.stdin.buffer if file == STDIN else file for file in options.files]
    try:
        with open_client(options) as client:
            answers = client.predict_many(images, **wanted)
    except ClientError as error:
        return fail(error)
    if options.json:
        for file, answer in zip(options.files, answers, strict=True):
            print(json.dumps(_document(file, answer), ensure_ascii=False))
    else:
        print_table(("file", "class", "probability", "label"), list(map(_row, options.files, answers)))
    return int(any(isinstance(answer, PredictionError) for answer in answers))


def _row(file: str, answer: Answer) -> tuple[str, ...]:
    if isinstance(answer, PredictionError):
        return (file, "-", "-", f"error: {answer.detail}")
    others = ", ".join(f"{one.label} {one.probability:.2%}" for one in (answer.top_k or ())[1:])
    return (
        file,
        "-" if answer.class_id is None else str(answer.class_id),
        "-" if answer.probability is None else f"{answer.probability:.2%}",
        (answer.label or "no label") + (f", then {others}" if others else "") + _remark(answer),
    )


def _remark(answer: Prediction) -> str:
    remark = " (blank)" if answer.blank else " (outlier)" if answer.outlier else ""
    if answer.prediction_set is None:
        return remark
    return f"{remark}, one of {{{', '.join(one.label for one in answer.prediction_set)}}}"


def _document(file: str, answer: Answer) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(answer).items() if value is not None}
    if not fields.get("blank"):
        fields.pop("blank", None)  # as in the service's own answer
    return {"path": file, **(fields if isinstance(answer, Prediction) else {"error": fields})}


def _parser() -> Parser:
    parser = Parser(
        "predict",
        usage="python -m service predict FILES... [options]",
        description="Ask a running service what images show. Any PNG, JPEG, WebP, GIF or BMP will do.",
        epilog="examples:\n"
        "  python -m service predict digit.png photo.jpg\n"
        "  python -m service predict --model mnist --top-k 3 digit.png\n"
        "  python -m service predict --json *.png | jq -r '[.path, .label] | @tsv'\n"
        "  convert scan.pdf png:- | python -m service predict -\n\n"
        + EXIT_CODES.format(partly=" or some files failed"),
    )
    parser.add_argument("files", nargs="*", metavar="FILES", help="Images; - reads one from standard input.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object a line in place of the table.")
    parser.add_argument("--top-k", type=number(int, 1), metavar="K", help="Also the K most probable classes.")
    parser.add_argument("--probabilities", action="store_true", help="With --json: the probabilities of all classes.")
    parser.add_argument("--abstain", action="store_true", help="No label for images unlike the training data.")
    parser.add_argument(
        "--coverage",
        type=number(float, 0.5),
        metavar="SHARE",
        help="Also the classes among which the truth is as often as SHARE says, such as 0.95.",
    )
    add_choice(parser)
    add_connection(parser)
    return parser
