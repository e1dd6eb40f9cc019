"""POST /predict: from a body of any form to the most probable class of each image."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

import numpy as np
import orjson

from service import images
from service.api import http, inputs
from service.api.http import BodyReader, Receive, Scope, Send
from service.dispatcher import Dispatcher
from service.errors import BadRequest, ClientGone, ModelFailed, Problem
from service.lanes import Client, Part
from service.manifest import ImageInput
from service.offer import ServedModel
from service.settings import Settings

logger = logging.getLogger(__name__)

PARAMETERS = ("model", "version", "top_k", "priority")

PRIORITIES = ("normal", "bulk")

CLIENT_GONE = 499
"""What a request is counted as whose client left before the answer; nobody is sent it."""

Record = Callable[[str, str, int, float], None]
"""Called once for each request with model, version, status and seconds; the first two are '' when unresolved."""


class _Present:
    """A client of a server that does not say when it leaves."""

    disconnected = False


class _Ask(NamedTuple):
    """What a request wants, beside its body."""

    model: ServedModel
    top_k: int | None
    bulk: bool
    deadline: float
    client: Client


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
        request_id = _given_request_id(scope) or next(self._request_ids)
        headers = ((b"x-request-id", request_id.encode()),)
        model: ServedModel | None = None
        try:
            query = _query(scope["query_string"])
            model = self._dispatcher.offer.resolve(query.get("model"), query.get("version"))
            seconds = _timeout_seconds(scope, self._settings.timeout_seconds)
            ask = _Ask(
                model, _top_k_of(query), query.get("priority") == "bulk", started + seconds, _client_behind(receive)
            )
            self._dispatcher.admit(1, seconds)
            body = await self._bodies.read(scope, receive, started)
            predictions = await self._predict(ask, http.header(scope, b"content-type"), body)
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
            answer = orjson.dumps({"model": model.name, "version": model.version, "predictions": predictions})
            await http.respond(send, 200, answer, headers=headers)
        name, version = (model.name, str(model.version)) if model else ("", "")
        self._record(name, version, status, time.monotonic() - started)

    def sweep(self) -> None:
        """Give up on bodies that do not come."""
        self._bodies.sweep(time.monotonic())

    async def _predict(self, ask: _Ask, content_type: str, body: bytes) -> list[dict[str, Any]]:
        spec = ask.model.manifest.input
        if not isinstance(spec, ImageInput):
            data = inputs.find_features(content_type, body, spec, self._settings.max_images)
            return await self._run(ask, data, len(data) // ask.model.input_bytes)
        found = await inputs.find_images(content_type, body, self._settings.max_images)
        if len(found) > 1:
            return await self._predict_several(ask, spec, found)
        if isinstance(found[0], Problem):
            raise found[0]
        return await self._run(ask, await self._decode(found[0], spec), 1)

    async def _predict_several(self, ask: _Ask, spec: ImageInput, found: list[inputs.Image]) -> list[dict[str, Any]]:
        """An entry for each image: its prediction or, among others that are good, its error.

        Raises:
            Problem: the first image's, when all are bad.
        """
        decoded = [await self._decode_or_problem(image, spec) for image in found]
        good = [data for data in decoded if isinstance(data, bytes)]
        problems = [data for data in decoded if isinstance(data, Problem)]
        if not good:
            raise problems[0]
        answers = iter(await self._run(ask, b"".join(good), len(good)))
        return [next(answers) if isinstance(data, bytes) else _error_entry(data) for data in decoded]

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

    async def _run(self, ask: _Ask, data: bytes, size: int) -> list[dict[str, Any]]:
        """A prediction for each of `size` inputs; one that makes the model fail is an error among the others.

        Raises:
            ModelFailed: it was the only one.
        """
        if size > 1:
            self._dispatcher.admit(size, ask.deadline - time.monotonic())
        futures = self._dispatcher.submit(ask.model, data, size, ask.deadline, ask.client, bulk=ask.bulk)
        parts = [await futures[0]] if len(futures) == 1 else await _all(futures)
        entries = [entry for part in parts for entry in _entries(ask.model, part, ask.top_k)]
        if size == 1 and "error" in entries[0]:
            raise ModelFailed(entries[0]["error"]["detail"])
        return entries


async def _all(futures: list[asyncio.Future[Part]]) -> list[Part]:
    """The parts of an answer once each has come or failed, so that no failure is left unheard.

    Raises:
        Problem, ClientGone: the first of the failures.
    """
    parts = await asyncio.gather(*futures, return_exceptions=True)
    for part in parts:
        if isinstance(part, BaseException):
            raise part
    return [part for part in parts if isinstance(part, Part)]


def _entries(model: ServedModel, part: Part, top_k: int | None) -> list[dict[str, Any]]:
    classes = model.classes
    answer = part.answer
    entries: list[dict[str, Any]] = []
    for i in range(part.start, part.start + part.size):
        class_id = answer.class_ids[i]
        if class_id < 0:
            entries.append(_error_entry(ModelFailed("the model must compute the input. Given: one that it fails on")))
            continue
        probability = round(answer.confidences[i], 6)
        entry: dict[str, Any] = {"class_id": class_id, "label": classes[class_id], "probability": probability}
        if top_k is not None:
            entry["top_k"] = _top_k(model, answer.logits[i * answer.classes : (i + 1) * answer.classes], top_k)
        entries.append(entry)
    return entries


def _top_k(model: ServedModel, logits: memoryview[float], k: int) -> list[dict[str, Any]]:
    """The `k` most probable classes (all of them if there are fewer), most probable first."""
    scaled = np.asarray(logits, np.float64) / model.manifest.temperature
    powers = np.exp(scaled - scaled.max())
    probabilities = powers / powers.sum()
    # Stable, so that among equals the lower class comes first, as argmax has it.
    order = np.argsort(-probabilities, kind="stable")[:k].tolist()
    return [{"class_id": i, "label": model.classes[i], "probability": round(float(probabilities[i]), 6)} for i in order]


def _error_entry(problem: Problem) -> dict[str, Any]:
    return {"error": {"status": problem.status, "detail": problem.detail}}


@lru_cache(maxsize=1024)
def _query(query_string: bytes) -> dict[str, str]:
    """The query's parameters.

    Raises:
        BadRequest: one that /predict does not know, or twice the same.
    """
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    unknown = [name for name, _ in pairs if name not in PARAMETERS]
    if unknown or len(dict(pairs)) != len(pairs):
        given = unknown or [name for name, _ in pairs]
        raise BadRequest(f"query parameters must be of {', '.join(PARAMETERS)}, each at most once. Given: {given}")
    query = dict(pairs)
    if query.get("priority", "normal") not in PRIORITIES:
        raise BadRequest(f"priority must be one of {', '.join(PRIORITIES)}. Given: {query['priority']!r}")
    return query


def _top_k_of(query: dict[str, str]) -> int | None:
    return http.whole_number(query["top_k"], "top_k") if "top_k" in query else None


def _timeout_seconds(scope: Scope, limit: float) -> float:
    """The client's own deadline, in seconds from the request's arrival, or `limit` if that is sooner.

    Raises:
        BadRequest: the header is no whole number of milliseconds.
    """
    text = http.header(scope, b"x-request-timeout-ms")
    return min(http.whole_number(text, "x-request-timeout-ms") / 1000, limit) if text else limit


def _client_behind(receive: Receive) -> Client:
    """Who waits for the answer: uvicorn hands `receive` out as a method of what knows whether the client is there."""
    cycle = getattr(receive, "__self__", None)
    return cast("Client", cycle) if hasattr(cycle, "disconnected") else _Present()


def _given_request_id(scope: Scope) -> str:
    text = http.header(scope, b"x-request-id")
    return text if text and len(text) <= 128 and text.isascii() and text.isprintable() else ""
