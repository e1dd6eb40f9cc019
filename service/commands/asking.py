"""From the options that commands share to a client."""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

from service.client import Client, Retries


class _Outage:
    """Says at once why a command waits, and then no more for as long as it will."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._said = -math.inf

    def __call__(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._said >= self._seconds:
            self._said = now
            print(f"{reason}. Trying again for {self._seconds:g} s (--retry-seconds)", file=sys.stderr)


def client_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a client, from the options of `add_connection`."""
    # The time is what bounds it: a service that starts again takes seconds, however often it is asked.
    retries = Retries(attempts=1000, total_seconds=options.retry_seconds, on_outage=_Outage(options.retry_seconds))
    return {
        "url": options.url,
        "api_key": options.api_key,
        "timeout_seconds": options.timeout_seconds,
        "retries": retries,
    }


def open_client(options: argparse.Namespace) -> Client:
    return Client(**client_options(options))
