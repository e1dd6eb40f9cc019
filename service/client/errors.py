"""The errors that a client raises, in the service's own words. Knows nothing about HTTP libraries."""

from __future__ import annotations


class ClientError(Exception):
    """There is no answer; `detail` says what is required and what was given, `status` is None if nothing came back."""

    def __init__(self, detail: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        facts = [f"status {self.status}"] if self.status else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.detail} ({', '.join(facts)})" if facts else self.detail


class NoAnswer(ClientError):
    """Nobody listens there, or the connection broke, as often as it was tried."""


class TimedOut(NoAnswer):
    """The answer did not come in time."""


class Refused(ClientError):
    """The request itself is wrong (4xx): the same one will be refused again."""


class NotAllowed(Refused):
    """The API key is missing or wrong (401), or may not do this (403)."""


class NotFound(Refused):
    """There is no such model, version or path (404)."""


class Unavailable(ClientError):
    """The service has no room or no worker now (429, 503, 504), as often as it was tried."""


class Failed(ClientError):
    """The service met a bug (5xx), or what answers is not the service."""


def error_of(status: int, detail: str, request_id: str | None) -> ClientError:
    """Return the error that an answer with this status means."""
    kinds = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 429: Unavailable, 503: Unavailable, 504: Unavailable}
    kind = kinds.get(status, Refused if 400 <= status < 500 else Failed)
    return kind(detail, status=status, request_id=request_id)
