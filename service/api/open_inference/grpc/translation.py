"""An inference request and its answer, between gRPC's messages and what REST makes of its JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from service.api.open_inference import messages, tensors
from service.api.open_inference.grpc.schema import CLASSES, Message
from service.api.open_inference.messages import Outputs
from service.api.open_inference.schema import OUTLIER_OUTPUTS, OUTPUTS, InferRequest, Parameters
from service.counting import counted
from service.engine.served_models import ServedModel
from service.problems import BadRequest, TooLarge

_CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
"""Where the elements of a datatype that some model takes are, when they are not raw bytes."""


def parse(message: Message, max_values: int) -> tuple[InferRequest, tensors.Binary]:
    """Return a ModelInferRequest, and the raw bytes of its inputs.

    Raises:
        BadRequest: it is not as the protocol says.
        TooLarge: an input holds more than `max_values` elements outside the raw bytes.
    """
    # Counted before anything is made of them: a message of 16 MB may hold eight million.
    if len(message.inputs) != 1:
        raise BadRequest(f"inputs must be one tensor. Given: {len(message.inputs)}")
    if len(message.outputs) > (most := len(OUTPUTS + OUTLIER_OUTPUTS)):
        raise BadRequest(f"outputs must be at most {most}. Given: {len(message.outputs)}")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(f"raw_input_contents must hold the bytes of the one input. Given: {len(raw)} times bytes")
    inputs = []
    chunks = []
    for number, tensor in enumerate(message.inputs):
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        contents = _contents(tensor)
        if len(contents) > max_values:
            raise TooLarge(
                f"input {tensor.name!r} must hold at most {counted(max_values, 'element')}. Given: {len(contents)}"
            )
        if raw and len(contents):
            raise BadRequest(f"input {tensor.name!r} must have contents or raw contents. Given: both")
        if raw or tensor.datatype == "BYTES":
            chunks.append(raw[number] if raw else tensors.join(list(contents)))
            described["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            described["data"] = msgspec.Raw(orjson.dumps(list(contents)))
        inputs.append(described)
    document = {
        "id": message.id or None,
        "parameters": _parameters(message),
        "inputs": inputs,
        "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs] or None,
    }
    return messages.validated(document), tensors.Binary(chunks[0] if len(chunks) == 1 else b"".join(chunks))


def answer(model: ServedModel, asked: InferRequest, outputs: Outputs) -> Message:
    """Return the ModelInferResponse: every output as raw bytes."""
    described = [{"name": output.name, "datatype": output.datatype, "shape": output.shape} for output, _ in outputs]
    return CLASSES["ModelInferResponse"](
        model_name=model.name,
        model_version=str(model.version),
        id=asked.id or "",
        outputs=described,
        raw_output_contents=[output.raw() for output, _ in outputs],
    )


def _contents(tensor: Message) -> Any:
    """Return the elements of an input in the field of its datatype; none if it is of a datatype that no model takes."""
    field = _CONTENTS.get(tensor.datatype)
    return getattr(tensor.contents, field) if field else ()


def _parameters(message: Message) -> Parameters:
    parameters = {}
    for name, parameter in message.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        parameters[name] = getattr(parameter, choice) if choice else None
    return parameters
