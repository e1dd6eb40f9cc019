"""The paths for those who watch the service: alive, ready, which models, which metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from service.api.readiness import Readiness
from service.api.response import json_response
from service.api.router import Route
from service.engine.dispatcher import Dispatcher
from service.http.messages import Header, Request, Response
from service.telemetry.metrics.exposition import MEDIA_TYPE


class Probes:
    """The state of the service, as one process sees it; `metrics` gives the exposition of all processes."""

    def __init__(self, dispatcher: Dispatcher, readiness: Readiness, metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._dispatcher = dispatcher
        self._readiness = readiness
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/livez", self.livez),
            Route("GET", "/startupz", self.startupz),
            Route("GET", "/readyz", self.readyz),
            Route("GET", "/health", self.readyz),
            Route("GET", "/models", self.models),
            Route("GET", "/metrics", self.metrics),
        ]

    def livez(self, _: Request) -> Response:
        return _status(HTTPStatus.OK, "alive")

    def startupz(self, _: Request) -> Response:
        if self._readiness.has_started():
            return _status(HTTPStatus.OK, "started")
        return _status(HTTPStatus.SERVICE_UNAVAILABLE, "starting")

    def readyz(self, _: Request) -> Response:
        obstacle = self._readiness.obstacle()
        status = HTTPStatus.SERVICE_UNAVAILABLE if obstacle else HTTPStatus.OK
        models = self._dispatcher.served.models()
        return _status(
            status,
            obstacle or "ready",
            models={f"{model.name}@{model.version}": self._dispatcher.is_ready(model) for model in models},
            missing=self._readiness.missing(),
            refused=self._readiness.refused(),
            falls_back=self._fallbacks(),
            quarantined={str(absent): absent.reason for absent in self._dispatcher.served.in_quarantine()},
        )

    def _fallbacks(self) -> dict[str, str]:
        """Return the models that answer with another version than production, and why."""
        return {name: f"{absent}: {absent.reason}" for name, absent in self._dispatcher.served.fallbacks().items()}

    def models(self, _: Request) -> Response:
        served = self._dispatcher.served
        listed = [
            {
                "name": model.name,
                "version": model.version,
                "default": model.default,
                "aliases": model.aliases,
                "digest": model.manifest.artifact.sha256,
                "ready": self._dispatcher.is_ready(model),
                "input": model.manifest.input.model_dump(exclude_none=True),
                "classes": model.classes,
                "metrics": [metric.model_dump() for metric in model.manifest.metrics],
            }
            for model in served.models()
        ]
        absent = [version.model_dump() for version in served.absent()]
        default = served.default_name()
        answers = default if any(model.name == default for model in served.models()) else None
        return json_response({"default": answers, "models": listed, "absent": absent})

    async def metrics(self, _: Request) -> Response:
        return Response(200, await self._metrics(), MEDIA_TYPE.encode())


def _status(status: HTTPStatus, text: str, **more: Any) -> Response:
    headers: tuple[Header, ...] = ((b"cache-control", b"no-store"),)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers += ((b"retry-after", b"1"),)
    return json_response({"status": text, **more}, status, headers)
