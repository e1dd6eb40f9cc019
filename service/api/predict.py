"""POST /predict: from a body of any kind to the most probable class of each image."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from service.api.body import Image, find_features, find_images
from service.api.exchange import Exchange, Inputs
from service.api.inference import Ask, Computed, Inference
from service.api.predictions import blank_entry, check_query, entry_bytes, error_entry, prediction_entries
from service.api.request import Query, parse_query
from service.api.response import check_answer_size
from service.api.router import Route
from service.contract.manifest import ImageInput, InputSpec
from service.counting import counted
from service.engine.served_models import ServedModel
from service.http.messages import Header, Later, Request, Response, problem_response
from service.images import decode as images
from service.problems import ModelFailed, Problem, TooLarge, Unprocessable
from service.telemetry.observer import Observer

Entry = dict[str, Any]


class Blank(NamedTuple):
    """An image in which there is nothing to see, as the model would take it."""

    pixels: bytes


Decoded = Image | Blank


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

    def _answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        return self._exchange.answer(self, request)

    # FrontEnd

    def query(self, request: Request) -> Query:
        return parse_query(request.raw_query)

    def find(self, ask: Ask, request: Request, body: bytes) -> Inputs[bytes] | Awaitable[Inputs[bytes]]:
        model, query = ask.model, request.context.query
        check_query(model, query)
        content_type = request.header("content-type") or ""
        spec = model.input
        if query.split:
            _expect_ink(model)
        if not isinstance(spec, ImageInput):
            data = find_features(content_type, body, spec, self._max_images)
            size = len(data) // model.input_bytes
            check_answer_size(size * entry_bytes(model, query))
            return Inputs(data, size, partial(self._encode, model, query, data, size, ()))
        found = find_images(content_type, body, self._max_images)
        if len(found) > 1:
            if query.split:
                raise Unprocessable(f"split takes one picture. Given: {len(found)}")
            check_answer_size(len(found) * entry_bytes(model, query))
            return self._find_several(ask, query, spec, found)
        if isinstance(found[0], Problem):
            raise found[0]
        if not query.split and (one := self._inference.decode_at_once(found[0], spec)) is not None:
            return self._one(model, query, spec, one)
        return self._find_elsewhere(ask, query, spec, found[0])

    async def _find_elsewhere(self, ask: Ask, query: Query, spec: ImageInput, image: bytes) -> Inputs[bytes]:
        """Find the input, or with split those, in a picture that another process decodes."""
        if not query.split:
            return self._one(ask.model, query, spec, await self._inference.decode(image, spec, ask))
        data = await self._inference.decode_signs(image, spec, ask)
        size = len(data) // ask.model.input_bytes
        if size > self._max_images:
            raise TooLarge(f"the picture must show at most {counted(self._max_images, 'sign')}. Given: {size}")
        if size == 1:
            return self._one(ask.model, query, spec, data)
        check_answer_size(size * entry_bytes(ask.model, query))
        return Inputs(data, size, partial(self._encode, ask.model, query, data, size, ()))

    def _one(self, model: ServedModel, query: Query, spec: ImageInput, data: bytes) -> Inputs[bytes]:
        if model.blank_is_outlier and images.is_blank(data, spec):
            return Inputs(b"", 0, partial(self._encode, model, query, b"", 0, (Blank(data),)))
        return Inputs(data, 1, partial(self._encode, model, query, data, 1, ()))

    async def _find_several(self, ask: Ask, query: Query, spec: ImageInput, found: list[Image]) -> Inputs[bytes]:
        decoded = await self._decode_several(ask, spec, found)
        good = [image for image in decoded if isinstance(image, bytes)]
        data, size = b"".join(good), len(good)
        encode = partial(self._encode, ask.model, query, data, size, decoded)
        places = tuple(place for place, image in enumerate(decoded) if isinstance(image, bytes))
        return Inputs(data, size, encode, places)

    def _encode(
        self, model: ServedModel, query: Query, data: bytes, size: int, decoded: Sequence[Decoded], computed: Computed
    ) -> bytes:
        """Return the answer for `size` inputs, back to back in `data`.

        `decoded` are several images of a request, good and bad, or the blank one of a request.

        Raises:
            ModelFailed: the only input cannot be computed; among others it would be an entry.
        """
        spec = model.input
        predicted = [entry for part in computed.parts for entry in prediction_entries(model, part, query)]
        if size == 1 and "error" in predicted[0]:
            raise ModelFailed(predicted[0]["error"]["detail"])
        if query.show_input and isinstance(spec, ImageInput):
            for number, entry in enumerate(predicted):
                start = number * model.input_bytes
                entry["input"] = _data_url(data[start : start + model.input_bytes], spec)
        if len(decoded) > size:
            predicted = list(_with_others(predicted, decoded, query, spec))
        if query.abstain or decoded:  # what is blank is among those
            self._count_abstentions(model, predicted, query)
        return orjson.dumps({"model": model.name, "version": model.version, "predictions": predicted})

    def _count_abstentions(self, model: ServedModel, predicted: list[Entry], query: Query) -> None:
        blank = sum("blank" in entry for entry in predicted)
        foreign = sum(entry.get("outlier", False) for entry in predicted) - blank if query.abstain else 0
        if blank or foreign:
            self._observer.abstained(model, blank=blank, foreign=foreign)

    def answer(self, content: bytes, own: tuple[Header, ...], shared: tuple[Header, ...]) -> Response:
        return Response(200, content, headers=own, shared_headers=shared)

    def refuse(self, problem: Problem, id_header: Header) -> Response:
        return problem_response(problem, id_header)

    async def _decode_several(self, ask: Ask, spec: ImageInput, found: list[Image]) -> list[Decoded]:
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
        if not ask.model.blank_is_outlier:
            return [*decoded]
        return [Blank(data) if isinstance(data, bytes) and images.is_blank(data, spec) else data for data in decoded]


def _expect_ink(model: ServedModel) -> None:
    spec = model.input
    if not isinstance(spec, ImageInput) or spec.style != "mnist":
        given = "pictures" if isinstance(spec, ImageInput) else "features"
        raise Unprocessable(f"split needs a model of ink, such as digits. Given: {model.name}, which takes {given}")


def _with_others(predicted: list[Entry], decoded: Sequence[Decoded], query: Query, spec: InputSpec) -> Iterator[Entry]:
    """Yield an entry for each image, in order: the next prediction, or why there is none."""
    following = iter(predicted)
    for data in decoded:
        if isinstance(data, Problem):
            yield error_entry(data)
        elif isinstance(data, Blank):
            entry = blank_entry(query)
            if query.show_input and isinstance(spec, ImageInput):
                entry["input"] = _data_url(data.pixels, spec)
            yield entry
        else:
            yield next(following)


def _data_url(data: bytes, spec: ImageInput) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.picture(data, spec)).decode()}"
