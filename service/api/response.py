"""The common parts of answers: JSON, the headers that name a model, and those that say where the time went."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import orjson

from service.engine.served_models import ServedModel
from service.http.messages import Header, Response
from service.problems import TooLarge
from service.telemetry.metrics.recorder import Stages

MAX_ANSWER_BYTES = 64 * 2**20
"""Of any answer: 1,024 images of 1,000 classes take 41 MB at most, as JSON."""

_THREE_DIGITS: Final = tuple(b"%03d" % number for number in range(1000))


def check_answer_size(size_bytes: int) -> None:
    """Refuse a request whose answer would be of about `size_bytes`, before it is computed.

    Raises:
        TooLarge: that is over MAX_ANSWER_BYTES.
    """
    if size_bytes > MAX_ANSWER_BYTES:
        raise TooLarge(
            f"the answer must be at most {MAX_ANSWER_BYTES:,} bytes; ask for fewer inputs or less of each. "
            f"Given: about {size_bytes:,}"
        )


def json_response(document: Any, status: int = 200, headers: tuple[Header, ...] = ()) -> Response:
    """Return `document` as JSON."""
    return Response(status, orjson.dumps(document), headers=headers)


@lru_cache(maxsize=256)
def model_headers(model: ServedModel) -> tuple[Header, ...]:
    """Return the headers that name the model, version, artifact and form of an answer."""
    return (
        (b"x-model", model.name.encode()),
        (b"x-model-version", b"%d" % model.version),
        (b"x-model-digest", model.manifest.artifact.sha256.encode()),
        (b"x-model-form", model.form.name.encode()),
    )


def computed_headers(stages: Stages, batch_size: int) -> tuple[Header, Header]:
    """Return the headers that say how an answer was computed: the stages in milliseconds, and the batch's size."""
    _, decode, queue, compute, _ = stages
    value = b"decode;dur=%b, queue;dur=%b, compute;dur=%b" % (
        _milliseconds(decode),
        _milliseconds(queue),
        _milliseconds(compute),
    )
    return (b"server-timing", value), (b"x-batch-size", b"%d" % batch_size)


def _milliseconds(seconds: float) -> bytes:
    """Return a time in milliseconds, with three decimals; compiled, whole numbers are printed four times as fast."""
    microseconds = int(1e6 * seconds + 0.5)
    return b"%d.%b" % (microseconds // 1000, _THREE_DIGITS[microseconds % 1000])
