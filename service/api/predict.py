"""POST /predict: from a body of any kind to the most probable class of each image."""

from __future__ import annotations

import base64
from collections.abc import Coroutine
from typing import Any

import orjson

from service.api.body import Image, find_features, find_images
from service.api.exchange import Exchange
from service.api.inference import Ask, Computed, Inference
from service.api.predictions import entry_bytes, error_entry, prediction_entries
from service.api.request import Query, parse_query
from service.api.response import check_answer_size
from service.api.router import Route
from service.contract.manifest import ImageInput
from service.http.messages import Header, Request, Response, problem_response
from service.images import decode as images
from service.problems import ModelFailed, Problem
from service.telemetry.observer import Observer

Entry = dict[str, Any]


class Predict:
    """The front end of /predict; see `FrontEnd`."""

    def __init__(self, exchange: Exchange, inference: Inference, observer: Observer) -> None:
        self._exchange = exchange
        self._inference = inference
        self._max_images = inference.settings.max_images
        self._observer = observer

    def route(self) -> Route:
        return Route("POST", "/predict", self._answer, self._check, self._exchange.abandon)

    def _check(self, request: Request) -> None:
        self._exchange.begin(self, request)

    def _answer(self, request: Request) -> Coroutine[Any, Any, Response]:
        return self._exchange.run(self, request)

    # FrontEnd

    def query(self, request: Request) -> Query:
        return parse_query(request.raw_query)

    async def compute(self, ask: Ask, request: Request, body: bytes) -> tuple[bytes, Computed]:
        content_type, query = request.header("content-type") or "", request.context.query
        model = ask.model
        spec = model.manifest.input
        decoded: list[Image] = []  # of several images, good and bad
        if not isinstance(spec, ImageInput):
            data = find_features(content_type, body, spec, self._max_images)
            size = len(data) // model.input_bytes
            check_answer_size(size * entry_bytes(model, query))
        elif len(found := find_images(content_type, body, self._max_images)) > 1:
            check_answer_size(len(found) * entry_bytes(model, query))
            decoded = await self._decode_several(ask, spec, found)
            good = [image for image in decoded if isinstance(image, bytes)]
            data, size = b"".join(good), len(good)
        else:
            if isinstance(found[0], Problem):
                raise found[0]
            data, size = await self._inference.decode(found[0], spec, ask), 1
        computed = await self._inference.compute(ask, data, size)
        predicted = [entry for part in computed.parts for entry in prediction_entries(model, part, query)]
        if size == 1 and "error" in predicted[0]:  # among others it would be an entry
            raise ModelFailed(predicted[0]["error"]["detail"])
        if query.show_input and isinstance(spec, ImageInput):
            for number, entry in enumerate(predicted):
                start = number * model.input_bytes
                entry["input"] = _data_url(data[start : start + model.input_bytes], spec)
        if len(decoded) > size:
            predicted = _with_errors(predicted, decoded)
        return orjson.dumps({"model": model.name, "version": model.version, "predictions": predicted}), computed

    def answer(self, content: bytes, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content, headers=own, shared_headers=shared)

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return problem_response(problem, id_header)

    async def _decode_several(self, ask: Ask, spec: ImageInput, found: list[Image]) -> list[Image]:
        """Return each image as the model takes it, or what is wrong with it; at least one is good.

        Raises:
            Problem: the first image's, when all are bad.
        """
        decoded = await self._inference.decode_all(found, spec, ask)
        problems = [data for data in decoded if isinstance(data, Problem)]
        if len(problems) == len(decoded):
            raise problems[0]
        if problems:
            self._observer.images_refused(ask.model, problems[0].reason, len(problems))
        return decoded


def _with_errors(predicted: list[Entry], decoded: list[Image]) -> list[Entry]:
    """Return an entry for each image, in order: the next prediction, or what is wrong with it."""
    following = iter(predicted)
    return [error_entry(data) if isinstance(data, Problem) else next(following) for data in decoded]


def _data_url(data: bytes, spec: ImageInput) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.picture(data, spec)).decode()}"
