"""What answers each method of inference.GRPCInferenceService."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc

from service.api.asgi import Scope
from service.api.auth import Gate
from service.api.inference import Ask, Inference
from service.api.open_inference.grpc import translation
from service.api.open_inference.grpc.schema import CLASSES, SERVICE, Message
from service.api.open_inference.repository import Repository
from service.api.open_inference.tensor_inference import TensorInference
from service.api.request import Head
from service.api.response import model_headers, server_timing
from service.engine.served_models import ServedModel
from service.problems import ClientGone, Problem
from service.telemetry.observer import Ledger

logger = logging.getLogger(__name__)

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What the status of a Problem is called here; INTERNAL is every other."""

_MAX_DETAIL_CHARACTERS = 1000  # it travels as a header, of which clients take 8 KiB

Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Handle = Callable[[Message, Scope, Context], Awaitable[Message]]


class _Caller:
    """Who waits for an answer."""

    disconnected = False


class Servicer:
    """The methods, with the same models, limits, keys and numbers as REST's paths below /v2."""

    def __init__(self, inference: Inference, repository: Repository, gate: Gate | None, ledger: Ledger) -> None:
        self._inference = inference
        self._tensors = TensorInference(inference)
        self._repository = repository
        self._gate = gate
        self._ledger = ledger

    def handler(self) -> Any:
        """What a gRPC server is given."""
        methods: dict[str, Handle] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self._answer, f"/{SERVICE}/{name}", handle),
                request_deserializer=CLASSES[f"{name}Request"].FromString,
                response_serializer=CLASSES[f"{name}Response"].SerializeToString,
            )
            for name, handle in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _answer(self, path: str, handle: Handle, request: Message, context: Context) -> Message:
        """What `handle` says, or what it raises as a status of gRPC."""
        scope = _scope(path, context)
        request_id = Head(scope).request_id()
        scope["id"] = request_id
        context.set_trailing_metadata((("x-request-id", request_id),))
        try:
            if self._gate and (refusal := self._gate.refuses(scope)):
                self._ledger.turned_away(refusal)
                raise refusal
            return await handle(request, scope, context)
        except Problem as error:
            problem = error
        except Exception:
            logger.exception("request %s to %s met a bug", request_id, path)
            problem = Problem(f"this is a bug; the log has it as {request_id}")
        code = _CODES.get(problem.status, grpc.StatusCode.INTERNAL)
        metadata = (("x-request-id", request_id), *problem.headers.items())
        await context.abort(code, problem.detail[:_MAX_DETAIL_CHARACTERS], metadata)
        raise AssertionError("abort raises")

    # What is there

    async def _live(self, _request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ServerLiveResponse"](live=True)

    async def _ready(self, _request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ServerReadyResponse"](ready=self._repository.is_ready())

    async def _server(self, _request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ServerMetadataResponse"](**self._repository.server())

    async def _model_ready(self, request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ModelReadyResponse"](ready=self._inference.dispatcher.is_ready(self._model(request)))

    async def _metadata(self, request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ModelMetadataResponse"](**self._repository.metadata(self._model(request)))

    async def _config(self, request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["ModelConfigResponse"](config=self._repository.config(self._model(request)))

    async def _index(self, request: Message, _scope: Scope, _context: Context) -> Message:
        return CLASSES["RepositoryIndexResponse"](models=self._repository.index(ready=request.ready))

    def _model(self, request: Message) -> ServedModel:
        return self._repository.find(request.name, request.version or None)

    # Inference

    async def _infer(self, request: Message, scope: Scope, context: Context) -> Message:
        """Compute, and count what becomes of it."""
        started = time.monotonic()
        self._ledger.arrived()
        model: ServedModel | None = None
        caller = _Caller()
        try:
            model = self._repository.find(request.model_name, request.model_version or None)
            seconds = _seconds(scope, context, self._inference.settings.timeout_seconds)
            self._inference.dispatcher.admit(1, seconds)
            asked, binary = translation.parse(request)
            ask = Ask(model, started + seconds, caller)
            outputs, computed = await self._tensors.run(ask, asked, binary)
            answer = translation.answer(model, asked, outputs)
        except BaseException as error:
            # grpc.aio cancels a call whose client has gone, or whose deadline has passed.
            caller.disconnected = isinstance(error, asyncio.CancelledError)
            self._ledger.refused(scope["id"], model, _failure(error), time.monotonic() - started)
            raise
        timing = server_timing(queue=computed.queue_seconds, compute=computed.compute_seconds)
        shared = (*model_headers(model), timing, (b"x-request-id", scope["id"].encode()))
        context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in shared])
        self._ledger.answered(scope["id"], model, computed.stages(started, started, time.monotonic()))
        return answer


def _failure(error: BaseException) -> type[Problem | ClientGone]:
    """What a request that raised `error` is counted as."""
    if isinstance(error, asyncio.CancelledError):
        return ClientGone
    return type(error) if isinstance(error, Problem) else Problem


def _scope(path: str, context: Context) -> Scope:
    """The call as the gate and `query` read a request: metadata are HTTP/2's headers."""
    metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
    headers = [(key.encode(), value.encode() if isinstance(value, str) else value) for key, value in metadata]
    return {"type": "grpc", "path": path, "headers": headers}


def _seconds(scope: Scope, context: Context, limit: float) -> float:
    """The client's own deadline, in seconds from now, or `limit` if that is sooner."""
    remaining = context.time_remaining()
    return min(Head(scope).timeout_seconds, limit, math.inf if remaining is None else remaining)
