"""Authentication by API key, and each key's quotas. Without a key, only probes, metrics and the pages answer."""

from __future__ import annotations

import math
import re

from service.api.keys import Key, Keys
from service.api.quotas import Quotas
from service.http.messages import Request
from service.problems import Forbidden, Problem, QuotaExceeded, Unauthorized

OPEN_PATHS = frozenset(
    {
        "/livez",
        "/startupz",
        "/readyz",
        "/health",
        "/ping",
        "/metrics",
        "/v2/health/live",
        "/v2/health/ready",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/",
        "/docs",
    }
)
"""Probes, also gRPC's, metrics, and the pages, which are public files."""

OPEN_PREFIXES = ("/page/",)


_FOR_ANY_KEY = re.compile(
    r"/models|/models/[^/]+/(promote|rollback)|/models/[^/]+/[^/]+/[^/]+|/v2|/v2/repository/.*"
    r"|/inference\.GRPCInferenceService/(ServerMetadata|Repository\w+)"
)
"""The paths that need no scope, only a known key; those that change something ask for `admin` themselves."""

_FOR_FEEDBACK = re.compile(r"/feedback(/.*)?")
"""The paths that need the scope feedback, and no other."""


class ApiKeyAuth:
    """Decides by its key whether a request may be answered; a request that may bears the key as its `caller`."""

    def __init__(self, keys: Keys, quotas: Quotas) -> None:
        self._keys = keys
        self._quotas = quotas

    def refusal(self, request: Request) -> Problem | None:
        """Return why a request is refused, or None if it may pass."""
        if request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIXES):
            return None
        kind, _, bearer = (request.header("authorization") or "").partition(" ")
        presented = bearer.strip() if kind.lower() == "bearer" else request.header("x-api-key")
        key = self._keys.find(presented) if presented else None
        if key is None:
            return Unauthorized(
                "the request must bear an API key: Authorization: Bearer KEY. Given: none that is known"
            )
        request.caller = key
        needed = "feedback" if _FOR_FEEDBACK.fullmatch(request.path) else "predict"
        if needed not in key.scopes and not _FOR_ANY_KEY.fullmatch(request.path):
            return Forbidden(f"the key must have the scope {needed}. Given: {','.join(sorted(key.scopes))}")
        if (key.requests_per_second or key.images_per_second) and (wait := self._quotas.use_request(key)):
            return over_quota(key, wait)
        return None


def over_quota(key: Key, wait_seconds: float) -> QuotaExceeded:
    """Return the refusal of what a key's quota has no room for before `wait_seconds` have passed."""
    detail = f"the key {key.name} must keep to its quota a second, {key.quota}. Given: more"
    return QuotaExceeded(detail, retry_after_seconds=math.ceil(wait_seconds))


def require_admin(request: Request) -> None:
    """Refuse a request whose key has not the scope admin.

    Raises:
        Forbidden: it has not, or the service asks for no keys.
    """
    if request.caller is None:
        raise Forbidden(
            "only a key with the scope admin may change what is served. Given: a service without keys; "
            "start it with --api-keys-file"
        )
    if "admin" not in request.caller.scopes:
        raise Forbidden(f"the key must have the scope admin. Given: {','.join(sorted(request.caller.scopes))}")
