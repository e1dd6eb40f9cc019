"""An answer, as every handler gives it. Knows nothing about the server that sends it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from service import problems
from service.engine.served_models import ServedModel
from service.problems import Problem
from service.telemetry.metrics.recorder import Stages

Header = tuple[bytes, bytes]
"""A header's name, in lower case, and its value."""


class Response(NamedTuple):
    """A whole answer; `shared_headers` are those that many answers have in common."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()
    shared_headers: tuple[Header, ...] = ()


def json_response(document: Any, status: int = 200, headers: tuple[Header, ...] = ()) -> Response:
    """Return `document` as JSON."""
    return Response(status, orjson.dumps(document), headers=headers)


def problem_response(problem: Problem, *headers: Header) -> Response:
    """Return `problem` as RFC 9457 problem details."""
    media_type = problems.MEDIA_TYPE.encode()
    return Response(problem.status, problem.body(), media_type, (*headers, *problem_headers(problem)))


def problem_headers(problem: Problem) -> tuple[Header, ...]:
    """Return the headers that belong to a problem, such as Retry-After."""
    return tuple((name.encode(), value.encode("latin-1")) for name, value in problem.headers.items())


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
