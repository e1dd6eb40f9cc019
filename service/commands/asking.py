"""From the options that commands share to a client."""

from __future__ import annotations

import argparse
from typing import Any

from service.client import Client, Retries


def client_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a client, from the options of `add_connection`."""
    # The time is what bounds it: a service that starts again takes seconds, however often it is asked.
    retries = Retries(attempts=1000, total_seconds=options.retry_seconds)
    return {
        "url": options.url,
        "api_key": options.api_key,
        "timeout_seconds": options.timeout_seconds,
        "retries": retries,
    }


def open_client(options: argparse.Namespace) -> Client:
    return Client(**client_options(options))
