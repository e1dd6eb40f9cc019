"""What answers have in common: JSON, the headers that name a model, and those that say where the time went."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from service.engine.served_models import ServedModel
from service.http.messages import Header, Response
from service.telemetry.metrics.recorder import Stages


def json_response(document: Any, status: int = 200, headers: tuple[Header, ...] = ()) -> Response:
    """Return `document` as JSON."""
    return Response(status, orjson.dumps(document), headers=headers)


@lru_cache(maxsize=256)
def model_headers(model: ServedModel) -> tuple[Header, ...]:
    """Return the headers that name the model, version and artifact of an answer."""
    return (
        (b"x-model", model.name.encode()),
        (b"x-model-version", b"%d" % model.version),
        (b"x-model-digest", model.manifest.artifact.sha256.encode()),
    )


def server_timing(stages: Stages) -> Header:
    """Return the Server-Timing header: the stages inside the service, in milliseconds."""
    _, decode, queue, compute, _ = stages
    value = b"decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f" % (1e3 * decode, 1e3 * queue, 1e3 * compute)
    return (b"server-timing", value)
