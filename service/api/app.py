"""The service's paths, and what answers at each."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.metadata import version

import orjson

from service.api import cards, openapi, static, torchserve
from service.api.administration import Administration
from service.api.auth import ApiKeyAuth
from service.api.feedback import Feedback
from service.api.open_inference.routes import OpenInference, error_response
from service.api.predict import Predict
from service.api.probes import Probes
from service.api.router import Route, Router
from service.api.torchserve import TorchServe
from service.contract.model_folder import open_registry
from service.http.messages import Request, Response, problem_response
from service.settings import Settings
from service.telemetry.observer import Observer


def build_router(
    probes: Probes,
    predict: Predict,
    open_inference: OpenInference,
    torch_serve: TorchServe | None,
    auth: ApiKeyAuth | None,
    observer: Observer,
    administration: Administration,
    feedback: Feedback,
    settings: Settings,
) -> Router:
    """Put every path of the service into a router."""
    routes = [
        predict.route(),
        *open_inference.routes(),
        *probes.routes(),
        *administration.routes(),
        *feedback.routes(),
        *static.routes(),
        *(torch_serve.routes() if torch_serve else []),
        cards.route(partial(open_registry, settings.registry, settings.model_dir, settings.model_name)),
        _openapi_route(settings),
    ]
    refuse_below = {"/v2": error_response, "/predictions": torchserve.error_response}
    return Router(routes, auth, observer, refuse=problem_response, refuse_below=refuse_below)


def _openapi_route(settings: Settings) -> Route:
    document = lru_cache(1)(lambda: orjson.dumps(openapi.document(version("argmax"), settings)))

    def send(_: Request) -> Response:
        return Response(200, document())

    return Route("GET", "/openapi.json", send)
