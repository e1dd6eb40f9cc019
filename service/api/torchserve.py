"""POST /predictions/NAME[/VERSION] as TorchServe's image classifier answers it: a label's probability for the top five.

For clients that were written for TorchServe; docs/torchserve.md says what differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import orjson

from service.api import body as bodies
from service.api.exchange import Exchange, Inputs
from service.api.inference import Ask, Computed, Inference
from service.api.predictions import prediction_entries
from service.api.request import Query, media_type
from service.api.router import Route
from service.contract.manifest import ImageInput
from service.engine.served_models import ServedModel
from service.http.messages import Header, Later, Request, Response, problem_headers
from service.problems import (
    BadRequest,
    DeadlineExceeded,
    ModelFailed,
    NotFound,
    Problem,
    QueueFull,
    RequestTimeout,
    TooLarge,
    Unavailable,
    Unprocessable,
)

_TOP = 5

_TYPES: dict[type[Problem], str] = {
    QueueFull: "ServiceUnavailableException",
    Unavailable: "ServiceUnavailableException",
    RequestTimeout: "RequestTimeoutException",
    DeadlineExceeded: "RequestTimeoutException",
}
"""How TorchServe calls them. It calls all other refusals of a client's request a bad request."""


class TorchServe:
    """The front end of /predictions; see `FrontEnd`."""

    def __init__(self, exchange: Exchange, inference: Inference, is_ready: Callable[[], bool]) -> None:
        self._exchange = exchange
        self._inference = inference
        self._is_ready = is_ready

    def routes(self) -> list[Route]:
        """Return the paths; `curl -T`, in TorchServe's own examples, sends PUT."""
        predictions = [
            Route(method, path, self._answer, self._check, self._exchange.abandon)
            for method in ("POST", "PUT")
            for path in ("/predictions/{model}", "/predictions/{model}/{version}")
        ]
        return [Route("GET", "/ping", self._ping), *predictions]

    def _ping(self, _: Request) -> Response:
        ready = self._is_ready()
        text = "Healthy" if ready else "Unhealthy"
        return Response(200 if ready else 500, orjson.dumps({"status": text}, option=orjson.OPT_INDENT_2))

    def _check(self, request: Request) -> None:
        self._exchange.begin(self, request)

    def _answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        return self._exchange.answer(self, request)

    # FrontEnd

    def query(self, request: Request) -> Query:
        version = request.parameters.get("version")
        if version is not None:
            whole, point, zero = version.partition(".")
            if point and whole.isdecimal() and zero.strip("0") == "":  # TorchServe's versions are 1.0, 2.0
                version = whole
        return Query(request.parameters["model"], version, _TOP)

    def find(self, ask: Ask, request: Request, body: bytes) -> Inputs[bytes] | Awaitable[Inputs[bytes]]:
        spec = ask.model.input
        if not isinstance(spec, ImageInput):
            raise Unprocessable(f"the model must take images here. Given: {ask.model.name}, which takes features")
        image = _image(request, body)
        encode = partial(self._encode, ask.model, request.context.query)
        if (data := self._inference.decode_at_once(image, spec)) is not None:
            return Inputs(data, 1, encode)
        return self._find_elsewhere(ask, encode, spec, image)

    async def _find_elsewhere(
        self, ask: Ask, encode: Callable[[Computed], bytes], spec: ImageInput, image: bytes
    ) -> Inputs[bytes]:
        return Inputs(await self._inference.decode(image, spec, ask), 1, encode)

    def _encode(self, model: ServedModel, query: Query, computed: Computed) -> bytes:
        (entry,) = prediction_entries(model, computed.parts[0], query)
        if "error" in entry:
            raise ModelFailed(entry["error"]["detail"])
        probabilities = {found["label"]: found["probability"] for found in entry["top_k"]}
        return orjson.dumps(probabilities, option=orjson.OPT_INDENT_2)

    def answer(self, content: bytes, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content, headers=own, shared_headers=shared)

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return error_response(problem, id_header)


def error_response(problem: Problem, *headers: Header) -> Response:
    """Return a problem in TorchServe's shape."""
    fallback = "InternalServerException" if problem.status >= 500 else "BadRequestException"
    kind = _not_found(problem.detail) if isinstance(problem, NotFound) else _TYPES.get(type(problem), fallback)
    content = {"code": problem.status, "type": kind, "message": problem.detail}
    return Response(
        problem.status,
        orjson.dumps(content, option=orjson.OPT_INDENT_2),
        headers=(*headers, *problem_headers(problem)),
    )


def _not_found(detail: str) -> str:
    """Return what TorchServe calls what is not there: a model, a version of it, or the path."""
    if detail.startswith("the path "):
        return "ResourceNotFoundException"
    return "ModelVersionNotFoundException" if detail.startswith("version ") else "ModelNotFoundException"


def _image(request: Request, body: bytes) -> bytes:
    """Return the one image of a body: a file of a form, else the body as it is, whatever its content type says.

    Raises:
        BadRequest: a form is malformed, or does not hold exactly one file.
    """
    content_type = request.header("content-type") or ""
    if media_type(content_type) != bodies.FORM:
        return body
    try:
        found = bodies.find_images(content_type, body, 1)
    except (TooLarge, Unprocessable) as problem:
        raise BadRequest(problem.detail) from problem
    (image,) = found
    if isinstance(image, Problem):
        raise image
    return image
