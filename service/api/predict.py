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
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson

from service import images
from service.api import http, inputs
from service.api.http import ClientGone, Receive, Scope, Send
from service.dispatcher import Dispatcher, Part, ServedModel
from service.errors import BadRequest, ModelFailed, Problem
from service.manifest import ImageInput
from service.settings import Settings

logger = logging.getLogger(__name__)

PARAMETERS = ("model", "version", "top_k")

Record = Callable[[str, str, int, float], None]
"""Called once for each request with model, version, status and seconds; the first two are '' when unresolved."""


class Predict:
    """The ASGI application behind /predict."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings, executor: Executor, record: Record) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._executor = executor
        self._record = record
        self._request_ids = map(f"{os.urandom(4).hex()}-{{:x}}".format, count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        request_id = _given_request_id(scope) or next(self._request_ids)
        headers = ((b"x-request-id", request_id.encode()),)
        model: ServedModel | None = None
        try:
            query = _query(scope["query_string"]) if scope["query_string"] else {}
            model = self._dispatcher.resolve(query.get("model"), query.get("version"))
            top_k = http.whole_number(query, "top_k") if query else None
            self._dispatcher.admit()
            body = await http.read_body(scope, receive, self._settings.max_body_bytes)
            deadline = started + self._settings.timeout_seconds
            predictions = await self._predict(model, http.header(scope, b"content-type"), body, deadline, top_k)
        except ClientGone:
            return
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

    async def _predict(
        self, model: ServedModel, content_type: str, body: bytes, deadline: float, top_k: int | None
    ) -> list[dict[str, Any]]:
        spec = model.manifest.input
        if not isinstance(spec, ImageInput):
            data = inputs.find_features(content_type, body, spec, self._settings.max_images)
            count = len(data) // model.input_bytes
            return await self._run(model, data, count, deadline, top_k)
        found = await inputs.find_images(content_type, body, self._settings.max_images)
        if len(found) == 1:
            if isinstance(found[0], Problem):
                raise found[0]
            data = await self._decode(found[0], spec)
            return await self._run(model, data, 1, deadline, top_k)
        return await self._predict_several(model, spec, found, deadline, top_k)

    async def _predict_several(
        self, model: ServedModel, spec: ImageInput, found: list[inputs.Image], deadline: float, top_k: int | None
    ) -> list[dict[str, Any]]:
        """An entry for each image: its prediction or, among others that are good, its error.

        Raises:
            Problem: the first image's, when all are bad.
        """
        decoded = [await self._decode_or_problem(image, spec) for image in found]
        good = [data for data in decoded if isinstance(data, bytes)]
        problems = [data for data in decoded if isinstance(data, Problem)]
        if not good:
            raise problems[0]
        answers = iter(await self._run(model, b"".join(good), len(good), deadline, top_k))
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

    async def _run(
        self, model: ServedModel, data: bytes, size: int, deadline: float, top_k: int | None
    ) -> list[dict[str, Any]]:
        """A prediction for each of `size` inputs; an input that makes the model fail is an error among others."""
        if size == 1:
            entry = _entries(model, await self._dispatcher.submit(model, data, 1, deadline), top_k)[0]
            if "error" in entry:
                raise ModelFailed(entry["error"]["detail"])
            return [entry]
        self._dispatcher.admit(size)
        step = self._settings.max_batch_size
        futures = [
            self._dispatcher.submit(
                model, data[i * model.input_bytes : (i + step) * model.input_bytes], min(step, size - i), deadline
            )
            for i in range(0, size, step)
        ]
        parts = await asyncio.gather(*futures, return_exceptions=True)
        entries: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, BaseException):
                raise part
            entries += _entries(model, part, top_k)
        return entries


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
    return dict(pairs)


def _given_request_id(scope: Scope) -> str:
    text = http.header(scope, b"x-request-id")
    return text if text and len(text) <= 128 and text.isascii() and text.isprintable() else ""
