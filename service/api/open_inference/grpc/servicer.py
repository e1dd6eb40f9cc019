"""The methods of inference.GRPCInferenceService."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc

from service.api.administration import Administration
from service.api.auth import ApiKeyAuth, require_admin
from service.api.exchange import Exchange, Inputs
from service.api.inference import Ask, Inference
from service.api.open_inference import messages, metadata
from service.api.open_inference.grpc import translation
from service.api.open_inference.grpc.reception import Place, Reception
from service.api.open_inference.grpc.schema import CLASSES, SERVICE, Message, parse
from service.api.open_inference.metadata import Document
from service.api.open_inference.tensor_inference import TensorInference
from service.api.request import Query
from service.engine.served_models import ServedModel
from service.http.messages import Header, Request
from service.problems import BadRequest, Problem
from service.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's code for the status of a Problem; every other is INTERNAL."""

_MAX_DETAIL_CHARACTERS = 1000  # it travels as a header, of which clients take 8 KiB

Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Handle = Callable[[Message, Request, Context], Awaitable[Message]]


class _Caller:
    """The client that waits for an answer."""

    disconnected = False


class Servicer:
    """The methods, with the same models, limits, keys and numbers as REST's paths below /v2."""

    def __init__(
        self,
        exchange: Exchange,
        inference: Inference,
        administration: Administration,
        is_ready: Callable[[], bool],
        statistics: Callable[[Sequence[ServedModel]], Awaitable[list[Document]]],
        auth: ApiKeyAuth | None,
        observer: Observer,
    ) -> None:
        self._exchange = exchange
        self._dispatcher = inference.dispatcher
        self._settings = inference.settings
        self._tensors = TensorInference(inference)
        self._administration = administration
        self._is_ready = is_ready
        self._statistics = statistics
        self._auth = auth
        self._observer = observer
        self._reception = Reception(self._settings.timeout_seconds)

    def handler(self) -> Any:
        """Return the methods in the form that a gRPC server takes."""
        methods: dict[str, Handle] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._stats,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "ModelInfer": self._infer,
        }
        handlers = {
            # As if of a stream of messages, and without a deserializer: a message is received and parsed only once its
            # caller has shown a key and there is room for it.
            name: grpc.stream_unary_rpc_method_handler(
                partial(self._answer, f"/{SERVICE}/{name}", handle, partial(parse, f"{name}Request")),
                response_serializer=CLASSES[f"{name}Response"].SerializeToString,
            )
            for name, handle in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _answer(
        self,
        path: str,
        handle: Handle,
        parse: Callable[[bytes], Message],
        _messages: AsyncIterator[bytes],
        context: Context,
    ) -> Message:
        """Return the answer of `handle`, or abort the call with the status of the problem that it raises."""
        request = _request_of(path, context)
        request_id = request.id
        context.set_trailing_metadata((("x-request-id", request_id),))
        try:
            return await self._answer_to_caller(request, handle, parse, context)
        except Problem as problem:
            # Its traceback leads to frames that hold it and the message: a cycle, which would wait for the collector.
            problem.__traceback__ = None
            status, detail, headers = problem.status, problem.detail, problem.headers
        except Exception:
            logger.exception("request %s to %s met a bug", request_id, path)
            status, detail, headers = 500, f"this is a bug; the log has it as {request_id}", {}
        code = _CODES.get(status, grpc.StatusCode.INTERNAL)
        trailing = (("x-request-id", request_id), *headers.items())
        await context.abort(code, detail[:_MAX_DETAIL_CHARACTERS], trailing)
        raise AssertionError("abort raises")

    async def _answer_to_caller(
        self, request: Request, handle: Handle, parse: Callable[[bytes], Message], context: Context
    ) -> Message:
        if self._auth and (refusal := self._auth.refusal(request)):
            self._observer.turned_away(request, refusal)
            raise refusal
        async with self._reception.place() as place:
            return await handle(await self._received(request, place, parse, context), request, context)

    async def _received(
        self, request: Request, place: Place, parse: Callable[[bytes], Message], context: Context
    ) -> Message:
        try:
            return parse(await place.receive(context))
        except Problem as problem:
            self._observer.turned_away(request, problem)
            raise

    # What is served

    async def _live(self, _message: Message, _request: Request, _context: Context) -> Message:
        return CLASSES["ServerLiveResponse"](live=True)

    async def _ready(self, _message: Message, _request: Request, _context: Context) -> Message:
        return CLASSES["ServerReadyResponse"](ready=self._is_ready())

    async def _server(self, _message: Message, _request: Request, _context: Context) -> Message:
        return CLASSES["ServerMetadataResponse"](**metadata.server())

    async def _model_ready(self, message: Message, _request: Request, _context: Context) -> Message:
        return CLASSES["ModelReadyResponse"](ready=self._dispatcher.is_ready(self._model(message)))

    async def _metadata(self, message: Message, _request: Request, _context: Context) -> Message:
        document = metadata.metadata(self._dispatcher.served, self._model(message))
        return CLASSES["ModelMetadataResponse"](**document)

    async def _config(self, message: Message, _request: Request, _context: Context) -> Message:
        return CLASSES["ModelConfigResponse"](config=metadata.config(self._model(message), self._settings.max_images))

    async def _index(self, message: Message, _request: Request, _context: Context) -> Message:
        models = metadata.index(self._dispatcher.served, ready_only=message.ready)
        return CLASSES["RepositoryIndexResponse"](models=models)

    async def _stats(self, message: Message, _request: Request, _context: Context) -> Message:
        models = metadata.versions(self._dispatcher.served, message.name or None, message.version or None)
        return CLASSES["ModelStatisticsResponse"](model_stats=await self._statistics(models))

    async def _load(self, message: Message, request: Request, _context: Context) -> Message:
        require_admin(request)
        if message.parameters:
            raise BadRequest(
                "parameters must be empty, because a version is in the registry as it is served. "
                f"Given: {sorted(message.parameters)[:3]}"
            )
        await self._administration.load(message.model_name)
        return CLASSES["RepositoryModelLoadResponse"]()

    async def _unload(self, message: Message, request: Request, _context: Context) -> Message:
        require_admin(request)
        await self._administration.unload(message.model_name)
        return CLASSES["RepositoryModelUnloadResponse"]()

    def _model(self, message: Message) -> ServedModel:
        return self._dispatcher.served.resolve(message.name, message.version or None)

    # Inference

    async def _infer(self, message: Message, request: Request, context: Context) -> Message:
        call = _InferCall(self._tensors, message, context, self._settings.max_images)
        del message  # which the call holds as long as it is needed
        self._exchange.begin(call, request)
        try:
            return await self._exchange.run(call, request)
        except asyncio.CancelledError:  # grpc.aio's way to say that the client has gone or the deadline has passed
            request.client.disconnected = True  # type: ignore[misc] # a `_Caller`
            raise


class _InferCall:
    """The front end of one call of ModelInfer; see `FrontEnd`. The message is the body."""

    def __init__(self, tensor_inference: TensorInference, message: Message, context: Context, max_images: int) -> None:
        self._tensors = tensor_inference
        self._max_images = max_images
        self._message = message
        self._context = context

    def query(self, _: Request) -> Query:
        return Query(self._message.model_name, self._message.model_version or None)

    def find(self, ask: Ask, _request: Request, _body: bytes) -> Inputs[Message] | Awaitable[Inputs[Message]]:
        most = messages.most_values(ask.model, self._max_images)
        asked, binary = translation.parse(self._message, most)
        self._message = None
        return self._tensors.find(ask, asked, binary, translation.answer)

    def answer(self, content: Message, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Message:
        self._context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in (*own, *shared)])
        return content

    def refuse(self, problem: Problem, _: Header) -> Message:
        raise problem  # `Servicer._answer` makes a status of it


def _request_of(path: str, context: Context) -> Request:
    """Return a call as a request: its metadata are HTTP/2's headers."""
    headers: dict[bytes, bytes] = {}
    for key, value in context.invocation_metadata() or ():
        headers.setdefault(key.encode(), value.encode() if isinstance(value, str) else value)
    remaining = context.time_remaining()
    seconds = math.inf if remaining is None else remaining
    return Request("POST", path, headers, _Caller(), remaining_seconds=seconds)
