"""The web application of one HTTP process: what answers which path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.api import asgi, auth, openapi, static
from service.api.auth import Gate
from service.api.open_inference.routes import OpenInference
from service.api.predict import Predict
from service.api.request import Head
from service.engine.dispatcher import Dispatcher
from service.engine.queues import Client
from service.problems import Problem
from service.telemetry.metrics.exposition import MEDIA_TYPE
from service.telemetry.observer import Ledger


def add_routes(
    app: FastAPI,
    predict: Predict,
    open_inference: OpenInference,
    dispatcher: Dispatcher,
    *,
    is_draining: Callable[[], bool],
    metrics: Callable[[], Awaitable[bytes]],
) -> None:
    """Put every path of the service into `app`."""

    async def livez() -> Response:
        return _status(HTTPStatus.OK, "alive")

    async def readyz() -> Response:
        if is_draining():
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "draining")
        ready = {f"{model.name}@{model.version}": dispatcher.is_ready(model) for model in dispatcher.offer.models()}
        if not any(ready.values()):
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "no worker is ready", models=ready)
        if not dispatcher.offer.is_complete:
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "other models are being loaded", models=ready)
        return _status(HTTPStatus.OK, "ready", models=ready)

    async def models() -> Response:
        listed = [
            {
                "name": model.name,
                "version": model.version,
                "default": model.default,
                "aliases": model.aliases,
                "digest": model.manifest.artifact.sha256,
                "ready": dispatcher.is_ready(model),
                "input": model.manifest.input.model_dump(),
                "classes": model.classes,
                "metrics": [metric.model_dump() for metric in model.manifest.metrics],
            }
            for model in dispatcher.offer.models()
        ]
        absent = [version.model_dump() for version in dispatcher.offer.absent()]
        document = {"default": dispatcher.offer.default_name(), "models": listed, "absent": absent}
        return Response(orjson.dumps(document), media_type="application/json")

    async def exposition() -> Response:
        return Response(await metrics(), media_type=MEDIA_TYPE)

    app.router.routes += [Route("/predict", predict, methods=["POST"]), *open_inference.routes(), *static.routes()]
    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "Starting, draining, or no worker"}}
    app.add_api_route("/models", models, summary="What is served, and which versions are being loaded or were refused")
    app.add_api_route("/livez", livez, summary="Whether this process answers at all")
    app.add_api_route("/readyz", readyz, summary="Whether predictions will come", responses=not_ready)
    app.add_api_route("/health", readyz, summary="The same as /readyz", responses=not_ready)
    app.add_api_route(
        "/metrics", exposition, summary="Prometheus metrics of all processes", response_class=PlainTextResponse
    )
    app.add_exception_handler(HTTPException, _http_exception)
    app.openapi = lru_cache(lambda: openapi.document(app))  # type: ignore[method-assign] # as FastAPI documents it


class Front:
    """Takes /predict straight to its handler; everything else goes through the framework, which costs 0.1 ms."""

    def __init__(self, app: ASGIApp, predict: Predict, gate: Gate | None, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger
        self._predict = predict
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._gate and (problem := self._gate.refuses(scope)):
            await asgi.send_response(send, self._turn_away(scope, problem))
        elif scope["path"] == "/predict" and scope["method"] == "POST":
            await self._predict(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def predict(self, head: Head, client: Client, body: bytes) -> Coroutine[Any, Any, asgi.Response]:
        """The answer to a request for /predict that took the short way here (see `protocol`)."""
        if self._gate and (problem := self._gate.refuses(head.scope)):
            return _at_once(self._turn_away(head.scope, problem))
        return self._predict.answer(head, client, body)

    def _turn_away(self, scope: Scope, problem: Problem) -> asgi.Response:
        self._ledger.turned_away(problem)
        return auth.answer(scope, problem)


async def _at_once(response: asgi.Response) -> asgi.Response:
    return response


def _status(status: HTTPStatus, text: str, **more: Any) -> Response:
    headers = {"cache-control": "no-store"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    return Response(orjson.dumps({"status": text, **more}), status, media_type="application/json", headers=headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals (no such path, wrong method) in the grammar of the others."""
    assert isinstance(error, HTTPException)  # noqa: S101 - narrows the type; registered for nothing else
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another")
        detail = f"{request.url.path} takes {allowed}. Given: {request.method}"
    elif error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"the path must be one that /docs lists. Given: {request.url.path!r}"
    else:
        detail = str(error.detail)
    return Response(
        problems.problem_body(error.status_code, detail),
        error.status_code,
        media_type=problems.MEDIA_TYPE,
        headers=dict(error.headers or {}),
    )
