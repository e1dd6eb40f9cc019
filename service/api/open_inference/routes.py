"""The paths below /v2."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from service.api import json_body
from service.api.administration import Administration
from service.api.auth import require_admin
from service.api.exchange import Exchange, Inputs
from service.api.inference import Ask, Inference
from service.api.open_inference import messages, metadata
from service.api.open_inference.messages import InferAnswer
from service.api.open_inference.metadata import Document
from service.api.open_inference.tensor_inference import TensorInference
from service.api.request import Query
from service.api.response import json_response
from service.api.router import Route
from service.engine.served_models import ServedModel
from service.http.messages import Header, Later, Request, Response, problem_headers
from service.problems import Problem, Unavailable, Unprocessable
from service.telemetry.drift import Drift


class OpenInference:
    """The front end of the protocol over REST; see `FrontEnd`."""

    def __init__(
        self,
        exchange: Exchange,
        inference: Inference,
        administration: Administration,
        is_ready: Callable[[], bool],
        statistics: Callable[[Sequence[ServedModel]], Awaitable[list[Document]]],
        drift: Drift,
    ) -> None:
        self._exchange = exchange
        self._dispatcher = inference.dispatcher
        self._max_images = inference.settings.max_images
        self._tensors = TensorInference(inference)
        self._administration = administration
        self._is_ready = is_ready
        self._statistics = statistics
        self._drift = drift

    def routes(self) -> list[Route]:
        """Return the protocol's paths; those of a model come with and without a version."""
        found = [
            Route("GET", "/v2", self._server),
            Route("GET", "/v2/health/live", self._live),
            Route("GET", "/v2/health/ready", self._ready),
            Route("POST", "/v2/repository/index", self._index),
            Route("POST", "/v2/repository/models/{model}/load", self._load, require_admin),
            Route("POST", "/v2/repository/models/{model}/unload", self._unload, require_admin),
            Route("GET", "/v2/models/stats", self._stats),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route("GET", path, self._metadata),
                Route("GET", f"{path}/ready", self._model_ready),
                Route("GET", f"{path}/config", self._config),
                Route("GET", f"{path}/stats", self._stats),
                Route("POST", f"{path}/infer", self._infer, self._begin, self._exchange.abandon),
            ]
        return found

    # What is served

    def _server(self, _: Request) -> Response:
        return json_response(metadata.server())

    def _live(self, _: Request) -> Response:
        return json_response({"live": True})

    def _ready(self, _: Request) -> Response:
        ready = self._is_ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    def _index(self, request: Request) -> Response:
        ready_only = _asks_for_ready(request.body)
        return json_response(metadata.index(self._dispatcher.served, ready_only=ready_only))

    def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        document = metadata.metadata(self._dispatcher.served, model)
        drift = metadata.drift_of(self._drift.state(model))
        return json_response({**document, "parameters": {**metadata.parameters_of(model), **drift}})

    def _model_ready(self, request: Request) -> Response:
        model = self._model(request)
        if not self._dispatcher.is_ready(model):
            raise Unavailable(f"a worker must serve {model.name}. Given: none at the moment")
        return json_response({"name": model.name, "ready": True})

    def _config(self, request: Request) -> Response:
        return json_response(metadata.config(self._model(request), self._max_images))

    async def _stats(self, request: Request) -> Response:
        models = metadata.versions(self._dispatcher.served, **request.parameters)
        return json_response({"model_stats": await self._statistics(models)})

    async def _load(self, request: Request) -> Response:
        parameters = _object(request.body).get("parameters")
        if parameters:
            raise Unprocessable(
                "parameters must be empty, because a version is in the registry as it is served. "
                f"Given: {json_body.describe(parameters)}"
            )
        await self._administration.load(request.parameters["model"])
        return json_response({})

    async def _unload(self, request: Request) -> Response:
        _object(request.body)  # it may say whether to unload dependents, which no model has
        await self._administration.unload(request.parameters["model"])
        return json_response({})

    def _model(self, request: Request) -> ServedModel:
        return self._dispatcher.served.resolve(request.parameters["model"], request.parameters.get("version"))

    # Inference

    def _begin(self, request: Request) -> None:
        self._exchange.begin(self, request)

    def _infer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        return self._exchange.answer(self, request)

    def query(self, request: Request) -> Query:
        return Query(request.parameters["model"], request.parameters.get("version"))

    def find(self, ask: Ask, request: Request, body: bytes) -> Inputs[InferAnswer] | Awaitable[Inputs[InferAnswer]]:
        most = messages.most_values(ask.model, self._max_images)
        asked, binary = messages.parse(request, body, most)
        return self._tensors.find(ask, asked, binary, messages.answer)

    def answer(self, content: InferAnswer, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content.body, content.media_type, (*own, *content.headers), shared)

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return error_response(problem, id_header)


def error_response(problem: Problem, *headers: Header) -> Response:
    """Return a problem in the protocol's own shape."""
    return json_response({"error": problem.detail}, problem.status, (*headers, *problem_headers(problem)))


_OBJECT_VALUES = 16  # the body of a question about the repository has a key or two


def _asks_for_ready(body: bytes) -> bool:
    """Return whether an index of ready versions alone is asked for.

    Raises:
        Unprocessable: the body does not say it with true or false.
    """
    ready = _object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise Unprocessable(f"ready must be true or false. Given: {json_body.describe(ready)}")
    return ready


def _object(body: bytes) -> dict[str, Any]:
    return json_body.parse_object(body, _OBJECT_VALUES)
