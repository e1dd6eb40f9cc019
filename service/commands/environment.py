"""The environment of the commands that ask a service; `serve` has service.settings."""

from __future__ import annotations

import os
from typing import TextIO


def default_url() -> str:
    """SERVICE_URL, or this machine at SERVICE_PORT: inside a container that is the service that runs in it."""
    return os.environ.get("SERVICE_URL") or f"http://127.0.0.1:{os.environ.get('SERVICE_PORT') or 8000}"


def wants_colour(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal whose owner does not mind colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
