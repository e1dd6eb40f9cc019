"""Inference requests and answers: JSON with raw bytes behind it on one side, tensors on the other."""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from service.api import json_body
from service.api.inference import Computed
from service.api.open_inference import tensors
from service.api.open_inference.schema import (
    OUTLIER_OUTPUTS,
    OUTPUTS,
    BinaryData,
    InferRequest,
    InferResponse,
    OutputTensor,
    RequestedOutput,
)
from service.api.predictions import softmax
from service.api.request import whole_number
from service.api.response import check_answer_size
from service.engine.messages import CRASHED
from service.engine.served_models import ServedModel
from service.http.messages import Header, Request
from service.problems import BadRequest, ModelFailed, Unprocessable

_HEADER_LENGTH = "inference-header-content-length"

_VALUES_AROUND = 256
"""What JSON may hold besides its inputs' elements: names, shapes, parameters."""

_DATATYPES = {"i": "INT32", "f": "FP32", "b": "BOOL"}  # of numpy's kinds

_NUMBER_BYTES = 25  # of a number in JSON, with its comma, at most
_SCORE_BYTES = 24  # of a class in a classification, without its label


_decode: Final = msgspec.json.Decoder(InferRequest).decode
_encode: Final = msgspec.json.Encoder().encode

_STEP = re.compile(r"([a-z]+)|\[(\d+)\]")  # of the path to a value in a document

_EVERY_OUTPUT = [RequestedOutput(name=name) for name in OUTPUTS + OUTLIER_OUTPUTS]


class Tensor:
    """An output: numbers, or strings for a classification."""

    __slots__ = ("datatype", "name", "shape", "values")

    def __init__(
        self, name: str, datatype: str, shape: list[int], values: npt.NDArray[Any] | array[int] | list[bytes]
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.values = values

    def raw(self) -> bytes:
        return tensors.join(self.values) if isinstance(self.values, list) else self.values.tobytes()

    def listed(self) -> list[Any]:
        if isinstance(self.values, list):
            return [value.decode() for value in self.values]
        return np.ravel(self.values).tolist()


Outputs = list[tuple[Tensor, bool]]
"""The tensors of an answer, and whether each is to be raw bytes behind its JSON."""


@lru_cache(maxsize=256)
def most_values(model: ServedModel, max_images: int) -> int:
    """Return how many values the JSON of a request for `model` may hold."""
    return json_body.most_values(max_images, model.input.shape) + _VALUES_AROUND


def parse(request: Request, body: bytes, max_values: int) -> tuple[InferRequest, tensors.Binary]:
    """Parse a request's JSON; return it and the raw bytes behind it.

    Raises:
        BadRequest: it breaks the protocol.
        TooLarge: it holds more than `max_values` values.
    """
    length = request.header(_HEADER_LENGTH)
    end = len(body) if length is None else whole_number(length, _HEADER_LENGTH)
    if end > len(body):
        raise BadRequest(f"{_HEADER_LENGTH} must be at most the body's {len(body)} bytes. Given: {end}")
    document = body if end == len(body) else body[:end]
    json_body.check(document, max_values)
    try:
        asked = _decode(document)
    except msgspec.ValidationError as error:
        raise _breaks_protocol(error, json_body.parse(document, max_values)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise json_body.no_json(error) from error
    if asked.outputs and len(asked.outputs) > 1:
        _expect_distinct(asked.outputs)
    return asked, tensors.Binary(body, end)


def validated(document: dict[str, Any]) -> InferRequest:
    """Return the request that a document says which was not JSON.

    Raises:
        BadRequest: it breaks the protocol.
    """
    try:
        asked = msgspec.convert(document, InferRequest)
    except msgspec.ValidationError as error:
        raise _breaks_protocol(error, document) from error
    _expect_distinct(asked.outputs or [])
    return asked


def _breaks_protocol(error: msgspec.ValidationError, document: Any) -> BadRequest:
    what, _, where = str(error).partition(" - at `$")
    where = where.removesuffix("`").partition("[...]")[0].lstrip(".")  # which stands for any key of an object
    value = document
    with contextlib.suppress(LookupError, TypeError):  # where a key comes twice, each parser takes another value
        for key, index in _STEP.findall(where):
            value = value[key] if key else value[int(index)]
    given = json_body.describe(value)
    return BadRequest(f"{where or 'the body'} must be as the protocol says: {what}. Given: {given}")


def _expect_distinct(outputs: list[RequestedOutput]) -> None:
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        raise BadRequest(f"outputs must name each output at most once. Given: {json_body.describe(names)}")


def check_outputs(model: ServedModel, asked: InferRequest, images: int) -> None:
    """Refuse outputs that no model has or that would be too large, before anything is computed.

    Raises:
        TooLarge: the answer would be over its limit.
        Unprocessable: there is no such output.
    """
    size = 0
    names = output_names(model)
    for output in asked.outputs or ():
        if output.name not in names:
            raise Unprocessable(f"output must be one of {list(names)}. Given: {json_body.describe(output.name)}")
        is_classification = (output.parameters or {}).get("classification") is not None
        longest_label = max(map(len, model.classes)) if is_classification else 0
        size += _SCORE_BYTES + longest_label if is_classification else _NUMBER_BYTES
    check_answer_size(images * len(model.classes) * (size or 2 * _NUMBER_BYTES))


def outputs(model: ServedModel, computed: Computed, asked: InferRequest, blank: Sequence[bool] = ()) -> Outputs:
    """Return the tensors that were asked for, all of them if none was named; inputs that are `blank` are outliers.

    Raises:
        ModelFailed: the model cannot compute one of the inputs.
        Unprocessable: one cannot be classified so.
    """
    class_ids = [k for part in computed.parts for k in part.answer.class_ids[part.places]]
    if min(class_ids) < 0:
        first = next(i for i, class_id in enumerate(class_ids) if class_id < 0)
        fault = "ends its process" if class_ids[first] == CRASHED else "fails"
        raise ModelFailed(f"the model must compute every input. Given: it {fault} on input {first}")
    binary_by_default = asked.parameters is not None and bool(asked.parameters.get("binary_data_output", False))
    found = []
    for output in asked.outputs or _EVERY_OUTPUT[: len(output_names(model))]:
        parameters = output.parameters or {}
        top = parameters.get("classification")
        if output.name == "class_ids" and top is None:
            tensor = Tensor("class_ids", "INT32", [len(class_ids)], array("i", class_ids))
        else:
            values = _values(model, computed, output.name, class_ids, blank)
            if top is None:
                tensor = Tensor(output.name, _DATATYPES[values.dtype.kind], list(values.shape), values)
            else:
                tensor = _classification(model, output.name, values, top)
        found.append((tensor, bool(parameters.get("binary_data", binary_by_default))))
    return found


def output_names(model: ServedModel) -> tuple[str, ...]:
    """Return the names of a model's outputs."""
    return OUTPUTS if model.outliers is None else OUTPUTS + OUTLIER_OUTPUTS


def _values(
    model: ServedModel, computed: Computed, name: str, class_ids: list[int], blank: Sequence[bool]
) -> npt.NDArray[Any]:
    """Return an output by its name."""
    if name == "class_ids":
        return np.asarray(class_ids, np.int32)
    if name in OUTLIER_OUTPUTS and model.outliers is not None:
        scores = _scores(computed, blank)
        if name == "outliers":
            return np.asarray(~(scores <= model.outliers.threshold))  # so that NaN is one
        return np.asarray([model.outliers.percentile(score) for score in scores], np.float32)
    logits = _logits(computed, len(model.classes))
    if name == "logits":
        return logits
    return softmax(logits.astype(np.float64), model.manifest.temperature).astype(np.float32)


def _scores(computed: Computed, blank: Sequence[bool]) -> npt.NDArray[np.float64]:
    """Return the outlier scores of all parts, float64 [N], without end for inputs that are blank."""
    scores = [score for part in computed.parts for score in part.answer.scores[part.places]]
    found = np.asarray(scores, np.float64)
    found[np.flatnonzero(blank)] = np.inf
    return found


def _logits(computed: Computed, classes: int) -> npt.NDArray[np.float32]:
    """Return the logits of all parts, float32 [N, K]."""
    parts = [
        np.asarray(part.answer.logits[part.start * classes : (part.start + part.size) * classes], np.float32)
        for part in computed.parts
    ]
    return np.concatenate(parts).reshape(-1, classes)


def _classification(model: ServedModel, name: str, values: npt.NDArray[Any], top: Any) -> Tensor:
    if type(top) is not int or top < 1 or values.ndim != 2:
        raise Unprocessable(
            f"classification must be a whole number of at least 1, of {name!r} per class. Given: {top!r}"
        )
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    strings = [
        f"{row[k]:f}:{k}:{model.classes[k]}".encode() for row, chosen in zip(values, order, strict=True) for k in chosen
    ]
    return Tensor(name, "BYTES", list(order.shape), strings)


class InferAnswer:
    """The body of an answer over REST, and the headers that describe it."""

    __slots__ = ("body", "headers", "media_type")

    def __init__(self, body: bytes, media_type: bytes, headers: tuple[Header, ...]) -> None:
        self.body = body
        self.media_type = media_type
        self.headers = headers


def answer(model: ServedModel, asked: InferRequest, outputs: Outputs) -> InferAnswer:
    """Encode the answer to an inference request."""
    listed = []
    chunks = []
    for tensor, is_binary in outputs:
        described = OutputTensor(tensor.name, tensor.datatype, tensor.shape)
        if is_binary:
            raw = tensor.raw()
            chunks.append(raw)
            described.parameters = BinaryData(len(raw))
        else:
            described.data = tensor.listed()
        listed.append(described)
    head = _encode(InferResponse(model.name, str(model.version), listed, UNSET if asked.id is None else asked.id))
    if not chunks:
        return InferAnswer(head, b"application/json", ())
    length = (_HEADER_LENGTH.encode(), b"%d" % len(head))
    return InferAnswer(b"".join((head, *chunks)), b"application/octet-stream", (length,))
