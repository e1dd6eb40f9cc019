"""The paths below /v2."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson

from service.api.exchange import Exchange
from service.api.inference import Ask, Computed, Inference
from service.api.open_inference import messages, metadata
from service.api.open_inference.messages import InferAnswer
from service.api.open_inference.tensor_inference import TensorInference
from service.api.request import Query, Request
from service.api.response import Header, Response, json_response, problem_headers
from service.api.router import Handler, Route
from service.engine.served_models import ServedModel
from service.problems import BadRequest, ClientGone, Problem, Unavailable

logger = logging.getLogger(__name__)


class OpenInference:
    """The front end of the protocol over REST; see `FrontEnd`."""

    def __init__(self, exchange: Exchange, inference: Inference, is_ready: Callable[[], bool]) -> None:
        self._exchange = exchange
        self._dispatcher = inference.dispatcher
        self._settings = inference.settings
        self._tensors = TensorInference(inference)
        self._is_ready = is_ready

    def routes(self) -> list[Route]:
        """Return the protocol's paths; those of a model come with and without a version."""
        found = [
            Route("GET", "/v2", _refusing(self._server)),
            Route("GET", "/v2/health/live", _refusing(self._live)),
            Route("GET", "/v2/health/ready", _refusing(self._ready)),
            Route("POST", "/v2/repository/index", _refusing(self._index)),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route("GET", path, _refusing(self._metadata)),
                Route("GET", f"{path}/ready", _refusing(self._model_ready)),
                Route("GET", f"{path}/config", _refusing(self._config)),
                Route("POST", f"{path}/infer", self._infer),
            ]
        return found

    # What is served

    async def _server(self, _: Request) -> Response:
        return json_response(metadata.server())

    async def _live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = self._is_ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Response:
        ready_only = _asks_for_ready(await request.read_body())
        return json_response(metadata.index(self._dispatcher.served, ready_only=ready_only))

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        document = metadata.metadata(self._dispatcher.served, model)
        return json_response({**document, "parameters": metadata.parameters_of(model)})

    async def _model_ready(self, request: Request) -> Response:
        model = self._model(request)
        if not self._dispatcher.is_ready(model):
            raise Unavailable(f"a worker must serve {model.name}. Given: none at the moment")
        return json_response({"name": model.name, "ready": True})

    async def _config(self, request: Request) -> Response:
        return json_response(metadata.config(self._model(request), self._settings.max_images))

    def _model(self, request: Request) -> ServedModel:
        return self._dispatcher.served.resolve(request.parameters["model"], request.parameters.get("version"))

    # Inference

    def _infer(self, request: Request) -> Coroutine[Any, Any, Response]:
        return self._exchange.run(self, request)

    def query(self, request: Request) -> Query:
        return Query(request.parameters["model"], request.parameters.get("version"))

    async def compute(self, ask: Ask, request: Request, body: bytes) -> tuple[InferAnswer, Computed]:
        asked, binary = messages.parse(request.head, body)
        outputs, computed = await self._tensors.run(ask, asked, binary)
        return messages.answer(ask.model, asked, outputs), computed

    def answer(self, content: InferAnswer, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content.body, content.media_type, (*own, *content.headers), shared)

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return error_response(problem, id_header)


def error_response(problem: Problem, *headers: Header) -> Response:
    """Return a problem in the protocol's own shape."""
    return json_response({"error": problem.detail}, problem.status, (*headers, *problem_headers(problem)))


def _refusing(handle: Callable[[Request], Awaitable[Response]]) -> Handler:
    """Wrap a handler so that what it raises becomes an answer, and every answer bears the request's id."""

    async def refusing(request: Request) -> Response:
        request_id = request.head.request_id()
        try:
            response = await handle(request)
        except ClientGone:
            raise
        except Problem as problem:
            response = error_response(problem)
        except Exception:
            logger.exception("request %s to %s met a bug", request_id, request.head.path)
            response = error_response(Problem(f"this is a bug; the log has it as {request_id}"))
        return response._replace(headers=(*response.headers, (b"x-request-id", request_id.encode())))

    return refusing


def _asks_for_ready(body: bytes) -> bool:
    """Return whether an index of ready versions alone is asked for."""
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body must be JSON. Given: {error}") from error
    return isinstance(document, dict) and document.get("ready") is True
