"""The paths for those who watch the service: alive, ready, which models, which metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from service.api.response import json_response
from service.api.router import Route
from service.engine.dispatcher import Dispatcher
from service.heartbeats import Heartbeats
from service.http.messages import Header, Request, Response
from service.telemetry.metrics.exposition import MEDIA_TYPE


class Probes:
    """The state of the service, as one process sees it; `metrics` gives the exposition of all processes."""

    def __init__(self, dispatcher: Dispatcher, heartbeats: Heartbeats, metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._dispatcher = dispatcher
        self._heartbeats = heartbeats
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/livez", self.livez),
            Route("GET", "/readyz", self.readyz),
            Route("GET", "/health", self.readyz),
            Route("GET", "/models", self.models),
            Route("GET", "/metrics", self.metrics),
        ]

    def is_ready(self) -> bool:
        """Return whether models are loaded, some can be computed, and the service is not draining."""
        served = self._dispatcher.served.models()
        is_complete = self._dispatcher.served.is_complete
        return not self._heartbeats.draining and is_complete and any(map(self._dispatcher.is_ready, served))

    def livez(self, _: Request) -> Response:
        return _status(HTTPStatus.OK, "alive")

    def readyz(self, _: Request) -> Response:
        if self._heartbeats.draining:
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "draining")
        served = self._dispatcher.served.models()
        more: dict[str, dict[str, Any]] = {
            "models": {f"{model.name}@{model.version}": self._dispatcher.is_ready(model) for model in served}
        }
        isolated = self._dispatcher.served.in_quarantine()
        if isolated:
            more["quarantined"] = {f"{absent.name}@{absent.version}": absent.reason for absent in isolated}
        if not any(more["models"].values()):
            reason = "every model is in quarantine" if isolated and not served else "no worker is ready"
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, reason, **more)
        if not self._dispatcher.served.is_complete:
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "other models are being loaded", **more)
        return _status(HTTPStatus.OK, "ready", **more)

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
                "input": model.manifest.input.model_dump(),
                "classes": model.classes,
                "metrics": [metric.model_dump() for metric in model.manifest.metrics],
            }
            for model in served.models()
        ]
        absent = [version.model_dump() for version in served.absent()]
        return json_response({"default": served.default_name(), "models": listed, "absent": absent})

    async def metrics(self, _: Request) -> Response:
        return Response(200, await self._metrics(), MEDIA_TYPE.encode())


def _status(status: HTTPStatus, text: str, **more: Any) -> Response:
    headers: tuple[Header, ...] = ((b"cache-control", b"no-store"),)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers += ((b"retry-after", b"1"),)
    return json_response({"status": text, **more}, status, headers)
