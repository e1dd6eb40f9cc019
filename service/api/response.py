"""Put what a worker says of images into the words of the HTTP API."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from service.api.asgi import Header
from service.api.request import Query
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import ModelFailed, Problem

_DECIMALS = 6


def prediction_entries(model: ServedModel, part: Part, query: Query) -> list[dict[str, Any]]:
    """An entry of "predictions" for each image of `part`."""
    answer = part.answer
    found: list[dict[str, Any]] = []
    for i in range(part.start, part.start + part.size):
        class_id = answer.class_ids[i]
        if class_id < 0:
            found.append(error_entry(ModelFailed("the model must compute the input. Given: one that it fails on")))
            continue
        entry = _class_entry(model, class_id, answer.confidences[i])
        if query.top_k is not None or query.probabilities:
            logits = np.asarray(answer.logits[i * answer.classes : (i + 1) * answer.classes], np.float64)
            probabilities = softmax(logits, model.manifest.temperature)
            if query.top_k is not None:
                # Stable, so that among equals the lower class comes first, as argmax has it.
                order = np.argsort(-probabilities, kind="stable")[: query.top_k].tolist()
                entry["top_k"] = [_class_entry(model, k, float(probabilities[k])) for k in order]
            if query.probabilities:
                entry["probabilities"] = probabilities.round(_DECIMALS).tolist()
        found.append(entry)
    return found


def error_entry(problem: Problem) -> dict[str, Any]:
    """What stands in "predictions" for an image that has none."""
    return {"error": {"status": problem.status, "detail": problem.detail}}


def softmax(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Calibrated probabilities of logits [..., K], along the last axis."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@lru_cache(maxsize=256)
def model_headers(model: ServedModel) -> tuple[Header, ...]:
    """The headers that say which model, version and artifact answered."""
    return (
        (b"x-model", model.name.encode()),
        (b"x-model-version", b"%d" % model.version),
        (b"x-model-digest", model.manifest.artifact.sha256.encode()),
    )


def server_timing(*, queue: float, compute: float, decode: float | None = None) -> Header:
    """The Server-Timing header: each stage, its seconds said in milliseconds."""
    value = b"queue;dur=%.3f, compute;dur=%.3f" % (1e3 * queue, 1e3 * compute)
    return (b"server-timing", value if decode is None else b"decode;dur=%.3f, %b" % (1e3 * decode, value))


def _class_entry(model: ServedModel, class_id: int, probability: float) -> dict[str, Any]:
    return {
        "class_id": class_id,
        "label": model.classes[class_id],
        "probability": round(probability, _DECIMALS),
    }
