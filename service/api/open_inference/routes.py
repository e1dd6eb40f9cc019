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

from service.api import query
from service.api.http import BodyReader
from service.api.inference import Ask, Inference
from service.api.open_inference import messages, tensors
from service.api.open_inference.messages import InputTensor
from service.errors import BadRequest, ClientGone, Problem, TooLarge, Unavailable, Unprocessable
from service.ledger import Ledger
from service.manifest import ImageInput
from service.metrics.recorder import Stages
from service.offer import ServedModel
from service.vitals import Vitals

logger = logging.getLogger(__name__)

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
PLATFORM = "pytorch_torchscript"

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_CONFIG_TYPES = {"UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32", "BYTES": "TYPE_STRING"}
_STATES = {"loading": "LOADING", "refused": "UNAVAILABLE"}


def inputs_of(model: ServedModel) -> list[dict[str, Any]]:
    """The ways to say a model's input: its tensor or, for images, encoded files as BYTES."""
    spec = model.manifest.input
    if isinstance(spec, ImageInput):
        return [
            {"name": "images", "datatype": "UINT8", "shape": [-1, *spec.shape]},
            {"name": "files", "datatype": "BYTES", "shape": [-1]},
        ]
    return [{"name": "features", "datatype": "FP32", "shape": [-1, *spec.shape]}]


def outputs_of(model: ServedModel) -> list[dict[str, Any]]:
    classes = len(model.classes)
    return [
        {"name": "class_ids", "datatype": "INT32", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
    ]


class OpenInference:
    """Everything below /v2."""

    def __init__(self, inference: Inference, bodies: BodyReader, ledger: Ledger, vitals: Vitals, version: str) -> None:
        self._inference = inference
        self._offer = inference.dispatcher.offer
        self._bodies = bodies
        self._ledger = ledger
        self._vitals = vitals
        self._version = version

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
        return _json({"name": "argmax", "version": self._version, "extensions": EXTENSIONS})

    async def _live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = not self._vitals.draining and any(map(self._inference.dispatcher.is_ready, self._offer.models()))
        return _json({"ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Response:
        body = await request.body()
        listed = [
            {"name": model.name, "version": str(model.version), "state": "READY", "reason": ""}
            for model in self._offer.models()
        ]
        if not _asks_for_ready(body):
            listed += [
                {"name": v.name, "version": str(v.version), "state": _STATES[v.state], "reason": v.reason}
                for v in self._offer.absent()
            ]
        return _json(listed)

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        versions = [str(other.version) for other in self._offer.models() if other.name == model.name]
        return _json(
            {
                "name": model.name,
                "versions": versions,
                "platform": PLATFORM,
                "inputs": inputs_of(model),
                "outputs": outputs_of(model),
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        model = self._model(request)
        if not self._inference.dispatcher.is_ready(model):
            raise Unavailable(f"a worker must serve {model.name}. Given: none at the moment")
        return _json({"name": model.name, "ready": True})

    async def _config(self, request: Request) -> Response:
        model = self._model(request)

        def listed(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [
                {"name": d["name"], "data_type": _CONFIG_TYPES[d["datatype"]], "dims": d["shape"][1:] or [1]}
                for d in described
            ]

        return _json(
            {
                "name": model.name,
                "platform": PLATFORM,
                "max_batch_size": self._inference.settings.max_images,
                "input": listed(inputs_of(model)),
                "output": listed(outputs_of(model)),
            }
        )

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
        seconds = query.timeout_seconds(request.scope, self._inference.settings.timeout_seconds)
        self._inference.dispatcher.admit(1, seconds)
        body = await self._bodies.read(request.scope, request.receive, started)
        read = time.monotonic()
        asked, binary = messages.parse(request, body)
        ask = Ask(model, started + seconds, query.client_behind(request.receive))
        data, size = await self._read_input(model, asked.inputs[0], binary)
        computed = await self._inference.compute(ask, data, size)
        outputs = messages.outputs(model, computed, asked)
        response = messages.answer(model, asked, outputs, computed)
        return response, computed.stages(started, read, time.monotonic())

    async def _read_input(self, model: ServedModel, tensor: InputTensor, binary: tensors.Binary) -> tuple[bytes, int]:
        described = {d["name"]: d for d in inputs_of(model)}.get(tensor.name)
        if described is None:
            names = [d["name"] for d in inputs_of(model)]
            raise Unprocessable(f"input of {model.name} must be one of {names}. Given: {tensor.name!r}")
        size, limit = tensor.shape[0], self._inference.settings.max_images
        if size > limit:
            raise TooLarge(f"a request must hold at most {limit} inputs. Given: {size}")
        spec = model.manifest.input
        raw = tensor.model_dump(exclude_none=True)
        if described["datatype"] == "BYTES" and isinstance(spec, ImageInput):
            files = tensors.read_bytes(raw, binary)
            binary.expect_end()
            return b"".join(map(_expect_good, await self._inference.decode_all(files, spec))), len(files)
        data = tensors.read_numbers(raw, _DATATYPES[spec.dtype], spec.shape, binary)
        binary.expect_end()
        return data, size

    # The common way

    def _model(self, request: Request) -> ServedModel:
        parameters: Mapping[str, str] = request.path_params
        return self._offer.resolve(parameters["model"], parameters.get("version"))

    def _answering(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`handle`, with what it raises in the protocol's own shape: `{"error": ...}`."""

        async def endpoint(request: Request) -> Response:
            request.state.id = query.request_id(request.scope)
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


def _expect_good(decoded: bytes | Problem) -> bytes:
    if isinstance(decoded, Problem):
        raise decoded
    return decoded
