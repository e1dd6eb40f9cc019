"""The paths below /v2."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.asgi import BodyReader
from service.api.inference import Ask, Inference
from service.api.open_inference import messages
from service.api.open_inference.repository import Repository, form_of
from service.api.open_inference.tensor_inference import TensorInference
from service.api.request import Head, client_behind
from service.engine.served_models import ServedModel
from service.problems import BadRequest, ClientGone, Problem
from service.telemetry.metrics.recorder import Stages
from service.telemetry.observer import Ledger

logger = logging.getLogger(__name__)


class OpenInference:
    """Everything below /v2."""

    def __init__(self, inference: Inference, repository: Repository, bodies: BodyReader, ledger: Ledger) -> None:
        self._inference = inference
        self._tensors = TensorInference(inference)
        self._repository = repository
        self._bodies = bodies
        self._ledger = ledger

    def routes(self) -> list[Route]:
        """The protocol's paths; those of a model come with and without a version."""
        found = [
            Route("/v2", self._answering(self._server), methods=["GET"]),
            Route("/v2/health/live", self._answering(self._live), methods=["GET"]),
            Route("/v2/health/ready", self._answering(self._ready), methods=["GET"]),
            Route("/v2/repository/index", self._answering(self._index), methods=["POST"]),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route(path, self._answering(self._metadata), methods=["GET"]),
                Route(f"{path}/ready", self._answering(self._model_ready), methods=["GET"]),
                Route(f"{path}/config", self._answering(self._config), methods=["GET"]),
                Route(f"{path}/infer", self._answering(self._infer), methods=["POST"]),
            ]
        return found

    # What is there

    async def _server(self, _: Request) -> Response:
        return _json(self._repository.server())

    async def _live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = self._repository.is_ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Response:
        return _json(self._repository.index(ready=_asks_for_ready(await request.body())))

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        return _json({**self._repository.metadata(model), "parameters": form_of(model)})

    async def _model_ready(self, request: Request) -> Response:
        model = self._model(request)
        self._repository.expect_ready(model)
        return _json({"name": model.name, "ready": True})

    async def _config(self, request: Request) -> Response:
        return _json(self._repository.config(self._model(request)))

    # Inference

    async def _infer(self, request: Request) -> Response:
        """Compute, and count what becomes of it."""
        started = time.monotonic()
        self._ledger.arrived()
        request_id = request.state.id
        request.state.model = None
        try:
            response, stages = await self._predict(request, started)
        except Exception as error:
            failure = type(error) if isinstance(error, Problem | ClientGone) else Problem
            self._ledger.refused(request_id, request.state.model, failure, time.monotonic() - started)
            raise
        self._ledger.answered(request_id, request.state.model, stages)
        return response

    async def _predict(self, request: Request, started: float) -> tuple[Response, Stages]:
        request.state.model = model = self._model(request)
        seconds = min(Head(request.scope).timeout_seconds, self._inference.settings.timeout_seconds)
        self._inference.dispatcher.admit(1, seconds)
        body = await self._bodies.read(request.scope, request.receive, started)
        read = time.monotonic()
        asked, binary = messages.parse(request, body)
        ask = Ask(model, started + seconds, client_behind(request.receive))
        outputs, computed = await self._tensors.run(ask, asked, binary)
        response = messages.answer(model, asked, outputs, computed)
        return response, computed.stages(started, read, time.monotonic())

    # The common way

    def _model(self, request: Request) -> ServedModel:
        parameters: Mapping[str, str] = request.path_params
        return self._repository.find(parameters["model"], parameters.get("version"))

    def _answering(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`handle`, with what it raises in the protocol's own shape: `{"error": ...}`."""

        async def endpoint(request: Request) -> Response:
            request.state.id = Head(request.scope).request_id()
            try:
                response = await handle(request)
            except ClientGone:
                response = Response(status_code=ClientGone.status)
            except Problem as problem:
                response = _json({"error": problem.detail}, problem.status, headers=problem.headers)
            except Exception:
                logger.exception("request %s to %s met a bug", request.state.id, request.url.path)
                response = _json({"error": f"this is a bug; the log has it as {request.state.id}"}, 500)
            response.headers["x-request-id"] = request.state.id
            return response

        return endpoint


def _asks_for_ready(body: bytes) -> bool:
    """Whether an index of ready versions alone is asked for."""
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body must be JSON. Given: {error}") from error
    return isinstance(document, dict) and document.get("ready") is True


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json", headers=headers)
