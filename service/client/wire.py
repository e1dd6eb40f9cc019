"""The use of httpx by both clients: connecting, sending, and sending again."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx

from service.client.dialogs import Request
from service.client.errors import NoAnswer, TimedOut
from service.client.responses import error_in
from service.client.retries import RETRIED_STATUSES, Retries

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 30.0

_CONNECT_SECONDS = 5.0  # a machine that is there answers in milliseconds

# An answer may be long in coming because the service computes it: to ask again would make it compute twice.
_NOT_RETRIED = (httpx.ReadTimeout, httpx.WriteTimeout, httpx.LocalProtocolError, httpx.DecodingError)


def http_options(url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of an httpx client.

    Raises:
        ValueError: one of them cannot be used.
    """
    if not _is_address(url):
        raise ValueError(f"url must be an address as http://host:8000. Given: {url!r}")
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("api_key must be printable ASCII. Given: other characters")
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds must be more than 0. Given: {timeout_seconds}")
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS), pool=None),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


def _is_address(url: str) -> bool:
    try:
        parts = httpx.URL(url)
        parts.host.encode("idna")  # as the resolver will have it
    except (httpx.InvalidURL, UnicodeError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.host) and not (parts.query or parts.fragment)


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Raise NoAnswer where httpx cannot be used with the proxy that the environment names."""
    try:
        yield
    except (ImportError, httpx.InvalidURL, ValueError) as error:
        raise NoAnswer(f"the proxy in the environment must be one that httpx can use. Given: {error}") from error


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
        self._url = url.copy_with(userinfo=b"")  # a password is nothing for a message
        self._started = time.monotonic()
        self._failed = 0

    def after_response(self, response: httpx.Response) -> float | None:
        """Return the seconds until the next try; None if the answer is final."""
        if response.status_code not in RETRIED_STATUSES:
            return None
        wait = self._wait_seconds(response.headers.get("retry-after"))
        if wait is not None and response.status_code == 503:
            self._tell(f"{self._url} must be ready. Given: {error_in(response).detail}")
        return wait

    def after_error(self, error: httpx.RequestError) -> float:
        """Return the seconds until the next try.

        Raises:
            NoAnswer: there is none.
        """
        wait = None if _is_final(error) else self._wait_seconds()
        required = f"{self._url} must answer. Given: {_reason(error)}"
        if wait is not None:
            self._tell(required)
            return wait
        seconds = time.monotonic() - self._started
        if isinstance(error, httpx.TimeoutException):
            raise TimedOut(f"{self._url} must answer in time. Given: no answer after {seconds:.1f} s") from error
        tries = "one try" if self._failed <= 1 else f"{self._failed} tries in {seconds:.1f} s"
        raise NoAnswer(f"{required}, after {tries}") from error

    def _tell(self, reason: str) -> None:
        if self._retries.on_outage:
            self._retries.on_outage(reason)

    def _wait_seconds(self, retry_after: str | None = None) -> float | None:
        self._failed += 1
        return self._retries.wait_seconds(self._failed, time.monotonic() - self._started, retry_after)


def _is_final(error: httpx.RequestError) -> bool:
    """Return whether the same would happen again, or must not."""
    return isinstance(error, _NOT_RETRIED) or isinstance(_origin(error), ssl.SSLError)


def _reason(error: httpx.RequestError) -> str:
    """Return what happened, in the system's words where it has some: anyio's are that all attempts failed."""
    origin = _origin(error)
    if isinstance(origin, OSError) and not isinstance(origin, ssl.SSLError) and origin.strerror:
        return os.strerror(origin.errno) if origin.errno and origin.errno > 0 else origin.strerror
    return str(error) or type(error).__name__


def _origin(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
