"""The `bench` command: how much load a service takes, and how quickly it answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from service.client import ClientError, Failed, ModelInfo
from service.client.errors import NoAnswer, error_of
from service.client.inputs import encode_png
from service.commands.asking import open_client
from service.commands.bench_report import document_of, print_report
from service.commands.load import Address, Load, Report, close, fast_runner, read_answer
from service.commands.options import Parser, add_choice, add_connection, file, number
from service.commands.output import fail
from service.counting import counted

PREDICT = "/predict"
_PICTURES = 32


def main(arguments: Sequence[str]) -> int:
    """Load a service and print what it took; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    key = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    address = Address(options.url, key)
    try:
        what, requests = _requests(address, options)
        report = fast_runner().run(_run(address, requests, options))
    except (ClientError, OSError) as error:
        return fail(error)
    if options.json:
        print(json.dumps(document_of(report, options)))
    else:
        print_report(report, what, options)
    return int(bool(report.errors) or not report.seconds)


async def _run(address: Address, requests: Sequence[bytes], options: argparse.Namespace) -> Report:
    await _try_once(address, requests[0], options)
    load = Load(address, requests, seconds=options.seconds, rate=options.rate)
    return await load.run(options.connections, timeout_seconds=options.timeout_seconds)


async def _try_once(address: Address, request: bytes, options: argparse.Namespace) -> None:
    """Make sure that the request is one that is answered: a load of refusals measures nothing.

    Raises:
        ClientError: it is not.
    """
    writer = None
    try:
        async with asyncio.timeout(options.timeout_seconds):
            reader, writer = await address.connect()
            writer.write(request)
            status, body, _ = await read_answer(reader)
    except (OSError, EOFError, ValueError) as error:
        raise NoAnswer(f"{options.url} must answer. Given: {error or type(error).__name__}") from error
    finally:
        await close(writer)
    if status >= 400:
        try:
            detail = str(json.loads(body)["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"{options.url}{options.path} must answer with less than 400. Given: {body[:60]!r}"
        raise error_of(status, detail, None)


def _requests(address: Address, options: argparse.Namespace) -> tuple[str, list[bytes]]:
    """Return the requests, in words and as bytes: files, else inputs that the model takes, else GET."""
    query = {"model": options.model, "version": options.version}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    path = f"{options.path}{'?' if given else ''}{given}"
    if options.files:
        contents = options.files
        what, content_type = f"POST {options.url}{path}, {counted(len(contents), 'file')}", "application/octet-stream"
    elif options.path != PREDICT:
        return f"GET {options.url}{path}", [address.request("GET", path)]
    else:
        model = _model(options)
        shape = "x".join(map(str, model.input["shape"]))
        what = f"POST {options.url}{path}, random {model.input['kind']} inputs of {shape} for {model.name}"
        content_type, contents = random_inputs(model.input)
    return what, [address.request("POST", path, content, content_type) for content in contents]


def _model(options: argparse.Namespace) -> ModelInfo:
    with open_client(options) as client:
        models = client.models()
    name = options.model or models.default
    found = [model for model in models.models if model.name == name]
    if not found:
        names = ", ".join(sorted({model.name for model in models.models})) or "none"
        raise Failed(f"--model must be one that is served: {names}. Given: {name or 'none, and there is no default'}")
    return found[0]


def random_inputs(spec: Any) -> tuple[str, list[bytes]]:
    """Return a content type, and bodies of it that a model of this input takes."""
    if spec["kind"] == "image":
        channels, height, width = spec["shape"]
        pixels = [_noise(height, width * channels) for _ in range(_PICTURES)]
        return "application/octet-stream", [encode_png(one, height, width, channels) for one in pixels]
    rows = [[random.gauss(0, 1) for _ in range(spec["shape"][0])] for _ in range(_PICTURES)]
    return "application/json", [json.dumps({"features": [row]}).encode() for row in rows]


def _noise(height: int, width: int) -> bytes:
    """Noise in the middle of a black picture: a light border would be taken for paper, and redrawn at some cost."""
    top, left = height // 4, width // 4
    lines = [bytes(left) + os.urandom(width - 2 * left) + bytes(left) for _ in range(height - 2 * top)]
    return bytes(top * width) + b"".join(lines) + bytes(top * width)


def _path(text: str) -> str:
    if not (text.startswith("/") and text.isascii() and text.isprintable() and " " not in text):
        raise argparse.ArgumentTypeError(f"must be a path as /livez. Given: {text!r}")
    return text


def _parser() -> Parser:
    parser = Parser(
        "bench",
        usage="python -m service bench [FILES...] [options]",
        description="Load a service for a few seconds. Without FILES, /predict gets random inputs\n"
        "of the model's own size, and another --path is fetched. Connections send again when they are\n"
        "answered; with --rate requests are due at fixed moments, and latency counts from there.\n"
        "One process on one core: it says when it, rather than the service, was the limit.",
        epilog="examples:\n"
        "  python -m service bench\n"
        "  python -m service bench --connections 64 --seconds 30 --model mnist digit.png\n"
        "  python -m service bench --rate 2000 --connections 200\n"
        "  python -m service bench --url http://gpu-node:8000 --path /livez\n\n"
        "exit codes: 0 every answer was good, 1 some failed or none came, 2 wrong usage, 130 interrupted",
    )
    parser.add_argument("files", nargs="*", type=file, metavar="FILES", help="Images to send, in turn.")
    parser.add_argument("--path", type=_path, default=PREDICT, help="What is asked. Default: %(default)s")
    parser.add_argument(
        "--connections", type=number(int, 1), default=16, metavar="N", help="Connections. Default: %(default)s"
    )
    parser.add_argument("--seconds", type=number(float, 0.1), default=5.0, metavar="N", help="Default: %(default)g")
    parser.add_argument("--rate", type=number(float, 0.1), metavar="N", help="Requests due each second. Default: none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    add_choice(parser)
    add_connection(parser)
    return parser
