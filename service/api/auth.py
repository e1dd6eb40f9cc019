"""The gate before every path that is not a probe: without a key that lets in, nobody learns what is behind it."""

from __future__ import annotations

import orjson

from service.api import asgi
from service.api.asgi import Response, Scope
from service.api.keys import Keys
from service.problems import Forbidden, Problem, Unauthorized

OPEN_PATHS = frozenset(
    {
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/v2/health/live",
        "/v2/health/ready",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/",
        "/docs",
    }
)
"""Probes, also gRPC's, and metrics, and the pages, which are nothing but files that everybody has."""

OPEN_PREFIXES = ("/page/",)


class Gate:
    """Lets a request in, or says why not."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def refuses(self, scope: Scope) -> Problem | None:
        """What a request lacks to be let in, or None."""
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
            return None
        kind, _, bearer = (asgi.header(scope, b"authorization") or "").partition(" ")
        presented = bearer.strip() if kind.lower() == "bearer" else asgi.header(scope, b"x-api-key")
        key = self._keys.find(presented) if presented else None
        if key is None:
            return Unauthorized(
                "the request must bear an API key: Authorization: Bearer KEY. Given: none that is known"
            )
        if "predict" not in key.scopes:
            return Forbidden(f"the key must have the scope predict. Given: {','.join(sorted(key.scopes))}")
        return None


def answer(scope: Scope, problem: Problem) -> Response:
    """What a request is told that `Gate.refuses`, in the shape of the protocol that it spoke."""
    if not scope["path"].startswith("/v2"):
        return asgi.problem_response(problem)
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    return Response(problem.status, orjson.dumps({"error": problem.detail}), headers=headers)
