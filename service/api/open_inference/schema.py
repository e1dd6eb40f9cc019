"""The JSON of an inference request, as the protocol describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

OUTPUTS = ("class_ids", "probabilities", "logits")
"""The names of the outputs that every model has."""

OUTLIER_OUTPUTS = ("outliers", "outlier_percentiles")
"""The names of those that a model with outlier scores has as well."""

MOST_NAME = 1000
"""Characters of the name of a tensor, or of a datatype; every one that a model has is shorter."""

Parameters = dict[str, Any]


class InputTensor(BaseModel):
    """A tensor of a request: its data is here, or behind the JSON if it has the parameter `binary_data_size`."""

    model_config = ConfigDict(strict=True)

    name: str = Field(max_length=MOST_NAME)  # refusals quote it
    shape: list[int] = Field(min_length=1, max_length=8)
    datatype: str = Field(max_length=MOST_NAME)
    parameters: Parameters | None = None
    data: Any = None  # `read_numbers` looks at it; a list would be copied


class RequestedOutput(BaseModel):
    """An output that is asked for: `classification` gives the top k as strings, `binary_data` raw bytes."""

    model_config = ConfigDict(strict=True)

    name: str
    parameters: Parameters | None = None


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    model_config = ConfigDict(strict=True)

    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(None, max_length=len(OUTPUTS + OUTLIER_OUTPUTS))
