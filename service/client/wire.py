"""The use of httpx by both clients: connecting, sending, and sending again."""

from __future__ import annotations

import time
from typing import Any

import httpx

from service.client.dialogs import Request
from service.client.errors import NoAnswer, TimedOut
from service.client.retries import RETRIED_STATUSES, Retries

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 30.0

_CONNECT_SECONDS = 5.0  # a machine that is there answers in milliseconds

# An answer may be long in coming because the service computes it: to ask again would make it compute twice.
_NOT_RETRIED = (httpx.ReadTimeout, httpx.WriteTimeout, httpx.UnsupportedProtocol)


def http_options(url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of an httpx client."""
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS), pool=None),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


def http_request(request: Request) -> dict[str, Any]:
    """Return the arguments of an httpx client's `request`."""
    return {
        "method": request.method,
        "url": request.path,
        "content": request.content,
        "headers": request.headers,
        "params": request.params,
    }


class Attempts:
    """The failures of one request so far, and what follows from each."""

    def __init__(self, retries: Retries, url: httpx.URL) -> None:
        self._retries = retries
        self._url = url
        self._started = time.monotonic()
        self._failed = 0

    def after_response(self, response: httpx.Response) -> float | None:
        """Return the seconds until the next try; None if the answer is final."""
        if response.status_code not in RETRIED_STATUSES:
            return None
        return self._wait_seconds(response.headers.get("retry-after"))

    def after_error(self, error: httpx.TransportError) -> float:
        """Return the seconds until the next try.

        Raises:
            NoAnswer: there is none.
        """
        wait = None if isinstance(error, _NOT_RETRIED) else self._wait_seconds()
        if wait is not None:
            return wait
        seconds = time.monotonic() - self._started
        if isinstance(error, httpx.TimeoutException):
            raise TimedOut(f"{self._url} must answer in time. Given: no answer after {seconds:.1f} s") from error
        tries = "one try" if self._failed <= 1 else f"{self._failed} tries in {seconds:.1f} s"
        reason = str(error) or type(error).__name__
        raise NoAnswer(f"{self._url} must answer. Given: {reason}, after {tries}") from error

    def _wait_seconds(self, retry_after: str | None = None) -> float | None:
        self._failed += 1
        return self._retries.wait_seconds(self._failed, time.monotonic() - self._started, retry_after)
