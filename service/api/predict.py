"""POST /predict: from a body of any form to the most probable class of each image."""

from __future__ import annotations

import base64
import logging
import time
from functools import partial
from typing import Any, NamedTuple

import orjson

from service.api import asgi
from service.api.asgi import BodyReader, Read, Receive, Response, Scope, Send
from service.api.body import Image, find_features, find_images
from service.api.inference import Ask, Computed, Inference
from service.api.request import Head, Query, client_behind
from service.api.response import error_entry, model_headers, prediction_entries, server_timing
from service.contract.manifest import ImageInput
from service.engine.queues import Client
from service.engine.served_models import ServedModel
from service.images import decode as images
from service.problems import ClientGone, ModelFailed, Problem
from service.telemetry.observer import Ledger

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


class _Predictions(NamedTuple):
    entries: list[Entry]
    computed: Computed


class Predict:
    """What answers /predict: an ASGI application, and `answer` for whoever has the request in other words."""

    def __init__(self, inference: Inference, bodies: BodyReader, ledger: Ledger) -> None:
        self._inference = inference
        self._timeout_seconds = inference.settings.timeout_seconds
        self._max_images = inference.settings.max_images
        self._bodies = bodies
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = partial(self._bodies.read, scope, receive)
        response = await self.answer(Head(scope), client_behind(receive), read)
        if response.status != ClientGone.status:
            await asgi.send_response(send, response)

    async def answer(self, head: Head, client: Client, body: bytes | Read) -> Response:
        """The answer to a request with this body, or one to be read; of one whose client has gone, just the status."""
        started = time.monotonic()
        self._ledger.arrived()
        request_id = head.request_id()
        id_header = (b"x-request-id", request_id.encode())
        model: ServedModel | None = None
        try:
            asked = head.query
            dispatcher = self._inference.dispatcher
            model = dispatcher.offer.resolve(asked.model, asked.version)
            seconds = min(head.timeout_seconds, self._timeout_seconds)
            dispatcher.admit(1, seconds)
            read_at = started
            if not isinstance(body, bytes):
                body = await body(started)
                read_at = time.monotonic()
            ask = Ask(model, started + seconds, client, asked.bulk)
            entries, computed = await self._predict(ask, asked, head.content_type, body)
        except ClientGone:
            failure: type[Problem | ClientGone] = ClientGone
            response = Response(ClientGone.status, b"")
        except Problem as problem:
            failure = type(problem)
            response = asgi.problem_response(problem, id_header)
        except Exception:
            failure = Problem
            logger.exception("request %s met a bug", request_id)
            response = asgi.problem_response(Problem(f"this is a bug; the log has it as {request_id}"), id_header)
        else:
            answer = orjson.dumps({"model": model.name, "version": model.version, "predictions": entries})
            stages = computed.stages(started, read_at, time.monotonic())
            _, decode, queue, compute, _ = stages
            timing = server_timing(decode=decode, queue=queue, compute=compute)
            shared = model_headers(model)
            self._ledger.answered(request_id, model, stages)
            return Response(200, answer, headers=(id_header, timing), shared_headers=shared)
        self._ledger.refused(request_id, model, failure, time.monotonic() - started)
        return response

    async def _predict(self, ask: Ask, asked: Query, content_type: str, body: bytes) -> _Predictions:
        spec = ask.model.manifest.input
        if not isinstance(spec, ImageInput):
            data = find_features(content_type, body, spec, self._max_images)
            return await self._run(ask, asked, data, len(data) // ask.model.input_bytes)
        found = find_images(content_type, body, self._max_images)
        if len(found) > 1:
            return await self._predict_several(ask, asked, spec, found)
        if isinstance(found[0], Problem):
            raise found[0]
        data = await self._inference.decode(found[0], spec, ask)
        predictions = await self._run(ask, asked, data, 1)
        if asked.show_input:
            predictions.entries[0]["input"] = _data_url(data, spec)
        return predictions

    async def _predict_several(self, ask: Ask, asked: Query, spec: ImageInput, found: list[Image]) -> _Predictions:
        """An entry for each image: its prediction or, among others that are good, its error.

        Raises:
            Problem: the first image's, when all are bad.
        """
        decoded = await self._inference.decode_all(found, spec, ask)
        good = [data for data in decoded if isinstance(data, bytes)]
        problems = [data for data in decoded if isinstance(data, Problem)]
        if not good:
            raise problems[0]
        if problems:
            self._ledger.images_refused(ask.model, problems[0].reason, len(problems))
        predictions = await self._run(ask, asked, b"".join(good), len(good))
        if asked.show_input:
            for entry, data in zip(predictions.entries, good, strict=True):
                entry["input"] = _data_url(data, spec)
        predicted = iter(predictions.entries)
        entries = [next(predicted) if isinstance(data, bytes) else error_entry(data) for data in decoded]
        return _Predictions(entries, predictions.computed)

    async def _run(self, ask: Ask, asked: Query, data: bytes, size: int) -> _Predictions:
        """A prediction for each of `size` inputs; one that makes the model fail is an error among the others.

        Raises:
            ModelFailed: it was the only one.
        """
        computed = await self._inference.compute(ask, data, size)
        entries = [entry for part in computed.parts for entry in prediction_entries(ask.model, part, asked)]
        if size == 1 and "error" in entries[0]:
            raise ModelFailed(entries[0]["error"]["detail"])
        return _Predictions(entries, computed)


def _data_url(data: bytes, spec: ImageInput) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.picture(data, spec)).decode()}"
