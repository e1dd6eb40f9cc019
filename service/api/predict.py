"""POST /predict: from a body of any form to the most probable class of each image."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import count
from typing import Any, NamedTuple

import orjson

from service import images
from service.api import answers, http, inputs, query
from service.api.http import BodyReader, Receive, Scope, Send
from service.api.query import Query
from service.dispatcher import Dispatcher
from service.errors import ClientGone, ModelFailed, Problem
from service.lanes import Client, Part
from service.manifest import ImageInput
from service.offer import ServedModel
from service.settings import Settings

logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""What a request is counted as whose client left before the answer; nobody is sent it."""

Record = Callable[[str, str, int, float], None]
"""Called once for each request with model, version, status and seconds; the first two are '' when unresolved."""


class _Ask(NamedTuple):
    """One request, beside its body."""

    model: ServedModel
    query: Query
    deadline: float
    client: Client


class _Outcome(NamedTuple):
    """The predictions, and where the time went, in seconds."""

    entries: list[dict[str, Any]]
    submitted: float  # on time.monotonic()'s clock
    compute: float


class Predict:
    """The ASGI application behind /predict. `sweep` must be called now and then."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings, executor: Executor, record: Record) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._executor = executor
        self._record = record
        self._bodies = BodyReader(settings.max_body_bytes, settings.timeout_seconds)
        self._request_ids = map(f"{os.urandom(4).hex()}-{{:x}}".format, count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        request_id = query.request_id(scope) or next(self._request_ids)
        headers = ((b"x-request-id", request_id.encode()),)
        model: ServedModel | None = None
        try:
            asked = query.parse(scope["query_string"])
            model = self._dispatcher.offer.resolve(asked.model, asked.version)
            seconds = query.timeout_seconds(scope, self._settings.timeout_seconds)
            self._dispatcher.admit(1, seconds)
            body = await self._bodies.read(scope, receive, started)
            read = time.monotonic()
            ask = _Ask(model, asked, started + seconds, query.client_behind(receive))
            outcome = await self._predict(ask, http.header(scope, b"content-type"), body)
        except ClientGone:
            status = CLIENT_GONE
        except Problem as problem:
            status = problem.status
            await http.respond_with_problem(send, problem, headers)
        except Exception:
            status = 500
            logger.exception("request %s met a bug", request_id)
            await http.respond_with_problem(send, Problem(f"this is a bug; the log has it as {request_id}"), headers)
        else:
            status = 200
            queue = max(0.0, time.monotonic() - outcome.submitted - outcome.compute)
            timing = answers.server_timing(decode=outcome.submitted - read, queue=queue, compute=outcome.compute)
            answer = orjson.dumps({"model": model.name, "version": model.version, "predictions": outcome.entries})
            await http.respond(send, 200, answer, headers=(*headers, timing, *answers.model_headers(model)))
        name, version = (model.name, str(model.version)) if model else ("", "")
        self._record(name, version, status, time.monotonic() - started)

    def sweep(self) -> None:
        """Give up on bodies that do not come."""
        self._bodies.sweep(time.monotonic())

    async def _predict(self, ask: _Ask, content_type: str, body: bytes) -> _Outcome:
        spec = ask.model.manifest.input
        if not isinstance(spec, ImageInput):
            data = inputs.find_features(content_type, body, spec, self._settings.max_images)
            return await self._run(ask, data, len(data) // ask.model.input_bytes)
        found = await inputs.find_images(content_type, body, self._settings.max_images)
        if len(found) > 1:
            return await self._predict_several(ask, spec, found)
        if isinstance(found[0], Problem):
            raise found[0]
        data = await self._decode(found[0], spec)
        outcome = await self._run(ask, data, 1)
        if ask.query.show_input:
            outcome.entries[0]["input"] = _data_url(data, spec)
        return outcome

    async def _predict_several(self, ask: _Ask, spec: ImageInput, found: list[inputs.Image]) -> _Outcome:
        """An entry for each image: its prediction or, among others that are good, its error.

        Raises:
            Problem: the first image's, when all are bad.
        """
        decoded = [await self._decode_or_problem(image, spec) for image in found]
        good = [data for data in decoded if isinstance(data, bytes)]
        problems = [data for data in decoded if isinstance(data, Problem)]
        if not good:
            raise problems[0]
        outcome = await self._run(ask, b"".join(good), len(good))
        if ask.query.show_input:
            for entry, data in zip(outcome.entries, good, strict=True):
                entry["input"] = _data_url(data, spec)
        predicted = iter(outcome.entries)
        entries = [next(predicted) if isinstance(data, bytes) else answers.error_entry(data) for data in decoded]
        return outcome._replace(entries=entries)

    async def _decode(self, data: bytes, spec: ImageInput) -> bytes:
        if images.is_quick(data, spec):
            return images.decode(data, spec, max_pixels=self._settings.max_pixels)
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._executor, lambda: images.decode(data, spec, max_pixels=self._settings.max_pixels))

    async def _decode_or_problem(self, image: inputs.Image, spec: ImageInput) -> inputs.Image:
        if isinstance(image, Problem):
            return image
        try:
            return await self._decode(image, spec)
        except Problem as problem:
            return problem

    async def _run(self, ask: _Ask, data: bytes, size: int) -> _Outcome:
        """A prediction for each of `size` inputs; one that makes the model fail is an error among the others.

        Raises:
            ModelFailed: it was the only one.
        """
        submitted = time.monotonic()
        if size > 1:
            self._dispatcher.admit(size, ask.deadline - submitted)
        futures = self._dispatcher.submit(ask.model, data, size, ask.deadline, ask.client, bulk=ask.query.bulk)
        parts = [await futures[0]] if len(futures) == 1 else await all_parts(futures)
        entries = [entry for part in parts for entry in answers.entries(ask.model, part, ask.query)]
        if size == 1 and "error" in entries[0]:
            raise ModelFailed(entries[0]["error"]["detail"])
        computed = {id(part.answer): part.answer.compute_seconds for part in parts}  # parts may share a block
        return _Outcome(entries, submitted, sum(computed.values()))


async def all_parts(futures: list[asyncio.Future[Part]]) -> list[Part]:
    """The parts of an answer once each has come or failed, so that no failure is left unheard.

    Raises:
        Problem, ClientGone: the first of the failures.
    """
    parts = await asyncio.gather(*futures, return_exceptions=True)
    for part in parts:
        if isinstance(part, BaseException):
            raise part
    return [part for part in parts if isinstance(part, Part)]


def _data_url(data: bytes, spec: ImageInput) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.picture(data, spec)).decode()}"
