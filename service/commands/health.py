"""`health`: is a service ready? With the standard library alone, since a container asks every few seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from service.commands.options import Parser, add_address


def main(arguments: Sequence[str]) -> int:
    """Say whether the service is ready; return 0 if it is, 1 if not."""
    options = _parser().parse_args(arguments)
    try:
        status, document = _get(f"{options.url}/readyz", options.timeout_seconds)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        print(f"not ready: {options.url} must answer as the service does. Given: {reason}", file=sys.stderr)
        return 1
    models = ", ".join(name for name, ready in document.get("models", {}).items() if ready)
    if status == 200:
        print(f"ready: {models}")
        return 0
    print(f"not ready: {document.get('status', f'status {status}')}", file=sys.stderr)
    return 1


def _get(url: str, timeout_seconds: float) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        document = json.loads(response.read())
    except RecursionError:
        raise ValueError("JSON that goes too deep") from None
    finally:
        connection.close()
    if not (isinstance(document, dict) and isinstance(document.get("models", {}), dict)):
        raise ValueError(f"JSON that is another's, with status {response.status}")
    return response.status, document


def _parser() -> Parser:
    parser = Parser(
        "health",
        description="Say whether a service is ready to predict.",
        epilog="examples:\n"
        "  python -m service health\n"
        "  until python -m service health --url http://gpu-node:8000; do sleep 1; done\n"
        '  HEALTHCHECK CMD ["python", "-m", "service", "health"]\n\n'
        "exit codes: 0 ready, 1 not ready or not there, 2 wrong usage",
    )
    add_address(parser, timeout_seconds=5)
    return parser
