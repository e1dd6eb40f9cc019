"""The problems of requests, one type for each status, worded in one grammar (RFC 9457).

A detail says what is required, then what was given. Knows nothing about where it was raised.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

import orjson

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is not a prediction; `detail` is written for the client."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    """What it is counted as."""

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> bytes:
        """Return the problem details document, JSON."""
        return problem_body(self.status, self.detail)


class BadRequest(Problem):
    """The bytes are not what they claim to be: an image that does not decode, JSON that does not parse."""

    status = 400
    reason = "bad_input"


class Unauthorized(Problem):
    """No key, or none that is known."""

    status = 401
    reason = "unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"www-authenticate": "Bearer"})


class Forbidden(Problem):
    """A key that is known, but not for this."""

    status = 403
    reason = "unauthorized"


class NotFound(Problem):
    """There is no such page, model or version."""

    status = 404
    reason = "not_found"


class MethodNotAllowed(Problem):
    """A path that takes other methods."""

    status = 405
    reason = "not_found"

    def __init__(self, path: str, method: str, allowed: list[str]) -> None:
        names = ", ".join(allowed)
        super().__init__(f"{path} takes {names}. Given: {method}", headers={"allow": names})


class RequestTimeout(Problem):
    """The request's body did not come in time."""

    status = 408
    reason = "body_timeout"


class TooLarge(Problem):
    """A body, an image or a count over its limit."""

    status = 413
    reason = "bad_input"


class TargetTooLong(Problem):
    """A URL over its limit."""

    status = 414
    reason = "bad_input"


class UnsupportedMediaType(Problem):
    """A content type that no decoder takes."""

    status = 415
    reason = "bad_input"


class ExpectationFailed(Problem):
    """An Expect header that asks for something else than 100-continue."""

    status = 417
    reason = "bad_input"


class Unprocessable(Problem):
    """Well-formed, but of the wrong shape or value for the model."""

    status = 422
    reason = "bad_input"


class QueueFull(Problem):
    """More images wait than the queue may hold."""

    status = 429
    reason = "queue_full"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_seconds)})


class QuotaExceeded(Problem):
    """More requests or images than the API key may have a second."""

    status = 429
    reason = "quota"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_seconds)})


class Conflict(Problem):
    """What cannot be done in the present state, such as a change to a registry that is read-only."""

    status = 409
    reason = "bad_input"


class HeadTooLarge(Problem):
    """A head over its limits of bytes or headers."""

    status = 431
    reason = "bad_input"


class NotImplementedHere(Problem):
    """A method or a transfer coding that this server does not have."""

    status = 501
    reason = "bad_input"


class Unavailable(Problem):
    """Starting, draining, or no worker."""

    status = 503
    reason = "unavailable"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_seconds)})


class DeadlineExceeded(Problem):
    """The answer would come too late."""

    status = 504
    reason = "deadline"


class VersionNotSupported(Problem):
    """Another version of HTTP than 1.0 and 1.1."""

    status = 505
    reason = "bad_input"


class ModelFailed(Problem):
    """The model could not compute this one input."""

    status = 500
    reason = "model_error"


class ClientGone(Exception):
    """Nobody waits for the answer any more."""

    status: ClassVar[int] = 499  # what it is counted as; nobody is sent it
    reason: ClassVar[str] = "disconnected"


REASONS = tuple(sorted({Problem.reason, ClientGone.reason, *(problem.reason for problem in Problem.__subclasses__())}))
"""Everything that a request which got no predictions is counted as."""


def problem_body(status: int, detail: str) -> bytes:
    """Return a problem details document for `status`, JSON."""
    title = HTTPStatus(status).phrase
    return orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
