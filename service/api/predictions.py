"""The entries of "predictions" in an answer of /predict, made of what a worker computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from service.api.request import Query
from service.engine.messages import CRASHED, FAILED
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import ModelFailed, Problem

_FAULTS = {FAILED: "fails on", CRASHED: "ends its process on"}

_DECIMALS = 6
_ENTRY_BYTES = 80  # a class id, a probability, and the names of all three


def prediction_entries(model: ServedModel, part: Part, query: Query) -> list[dict[str, Any]]:
    """Return an entry for each image of `part`."""
    answer = part.answer
    found: list[dict[str, Any]] = []
    for i in range(part.start, part.start + part.size):
        class_id = answer.class_ids[i]
        if class_id < 0:
            fault = _FAULTS[class_id]
            found.append(error_entry(ModelFailed(f"the model must compute the input. Given: one that it {fault}")))
            continue
        entry = _class_entry(model, class_id, answer.confidences[i])
        if query.top_k is not None or query.probabilities:
            logits = np.asarray(answer.logits[i * answer.classes : (i + 1) * answer.classes], np.float64)
            probabilities = softmax(logits, model.manifest.temperature)
            if query.top_k is not None:
                # Stable, so that among equals the lower class comes first, as with argmax.
                order = np.argsort(-probabilities, kind="stable")[: query.top_k].tolist()
                entry["top_k"] = [_class_entry(model, k, float(probabilities[k])) for k in order]
            if query.probabilities:
                entry["probabilities"] = probabilities.round(_DECIMALS).tolist()
        found.append(entry)
    return found


def entry_bytes(model: ServedModel, query: Query) -> int:
    """Return about how long an image's entry is as JSON, at most."""
    size = _ENTRY_BYTES
    if query.top_k is not None:
        size += min(query.top_k, len(model.classes)) * (_ENTRY_BYTES + max(map(len, model.classes)))
    if query.probabilities:
        size += len(model.classes) * (_DECIMALS + 3)
    if query.show_input:
        size += 2 * model.input_bytes  # base64 of a PNG, which may be a little larger than its pixels
    return size


def error_entry(problem: Problem) -> dict[str, Any]:
    """Return the entry of an image that has no prediction."""
    return {"error": {"status": problem.status, "detail": problem.detail}}


def softmax(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Return calibrated probabilities of logits [..., K], along the last axis."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _class_entry(model: ServedModel, class_id: int, probability: float) -> dict[str, Any]:
    return {
        "class_id": class_id,
        "label": model.classes[class_id],
        "probability": round(probability, _DECIMALS),
    }
