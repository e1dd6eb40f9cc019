"""The service's paths, and what answers at each."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

import orjson
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.responses import Response as FrameworkResponse

from service.api import openapi, static
from service.api.auth import ApiKeyAuth
from service.api.open_inference.routes import OpenInference, error_response
from service.api.predict import Predict
from service.api.probes import Probes
from service.api.router import Route, Router
from service.http.messages import Request, Response, problem_response
from service.telemetry.observer import Observer


def build_router(
    probes: Probes,
    predict: Predict,
    open_inference: OpenInference,
    auth: ApiKeyAuth | None,
    observer: Observer,
) -> Router:
    """Put every path of the service into a router."""
    routes = [
        predict.route(),
        *open_inference.routes(),
        *probes.routes(),
        *static.routes(),
        Route("GET", "/openapi.json", _send_openapi),
    ]
    return Router(routes, auth, observer, refuse=problem_response, refuse_below={"/v2": error_response})


def _send_openapi(_: Request) -> Response:
    return Response(200, _openapi())


@lru_cache(1)
def _openapi() -> bytes:
    """Return the OpenAPI document, JSON; the framework serves nothing and only describes the probes in it."""
    app = FastAPI(title="Argmax", version=version("argmax"))
    not_ready: dict[int | str, dict[str, str]] = {503: {"description": "Starting, draining, or no worker"}}

    def described() -> FrameworkResponse:
        raise NotImplementedError

    app.add_api_route(
        "/models", described, summary="What is served, and which versions are being loaded or were refused"
    )
    app.add_api_route("/livez", described, summary="Whether this process answers at all")
    app.add_api_route("/readyz", described, summary="Whether predictions will come", responses=not_ready)
    app.add_api_route("/health", described, summary="The same as /readyz", responses=not_ready)
    app.add_api_route(
        "/metrics", described, summary="Prometheus metrics of all processes", response_class=PlainTextResponse
    )
    return orjson.dumps(openapi.document(app))
