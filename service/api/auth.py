"""Authentication by API key. Without a key, only probes, metrics and the pages answer."""

from __future__ import annotations

from service.api.keys import Keys
from service.http.messages import Request
from service.problems import Forbidden, Problem, Unauthorized

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


class ApiKeyAuth:
    """Decides by its key whether a request may be answered."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

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
        if "predict" not in key.scopes:
            return Forbidden(f"the key must have the scope predict. Given: {','.join(sorted(key.scopes))}")
        return None
