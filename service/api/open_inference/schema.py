"""The JSON of inference requests and answers, as the protocol describes it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

OUTPUTS = ("class_ids", "probabilities", "logits")
"""The names of the outputs that every model has."""

OUTLIER_OUTPUTS = ("outliers", "outlier_percentiles")
"""The names of those that a model with outlier scores has as well."""

Parameters = dict[str, Any]

Name = Annotated[str, Meta(max_length=1000)]
"""The name of a tensor, or of a datatype, which refusals quote; every one that a model has is shorter."""

Length = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Of one side of a tensor, which refusals quote; gRPC has the same limits."""


class InputTensor(Struct):
    """A tensor of a request: its data is here, or behind the JSON if it has the parameter `binary_data_size`."""

    name: Name
    shape: Annotated[list[Length], Meta(min_length=1, max_length=8)]
    datatype: Name
    parameters: Parameters | None = None
    data: Raw | UnsetType = UNSET
    """JSON that `read_numbers` parses, once it knows what the model takes."""


class RequestedOutput(Struct):
    """An output that is asked for: `classification` gives the top k as strings, `binary_data` raw bytes."""

    name: str
    parameters: Parameters | None = None


class InferRequest(Struct):
    """The JSON of an inference request."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: Annotated[list[RequestedOutput], Meta(max_length=len(OUTPUTS + OUTLIER_OUTPUTS))] | None = None


class BinaryData(Struct):
    """The parameters of an output whose data is raw bytes behind the JSON."""

    binary_data_size: int


class OutputTensor(Struct):
    """A tensor of an answer: its data is here, back to back, or behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: BinaryData | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(Struct):
    """The JSON of an answer; `id` is the request's, if it has one."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET
