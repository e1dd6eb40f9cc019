"""Inference on tensors: from those of a request to those of its answer."""

from __future__ import annotations

from service.api.inference import Ask, Computed, Inference
from service.api.open_inference import messages, tensors
from service.api.open_inference.messages import InferRequest, InputTensor, Outputs
from service.api.open_inference.metadata import inputs_of
from service.contract.manifest import ImageInput
from service.problems import Problem, TooLarge, Unprocessable

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


class TensorInference:
    """The part that REST and gRPC have in common, once a request is parsed."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def run(self, ask: Ask, asked: InferRequest, binary: tensors.Binary) -> tuple[Outputs, Computed]:
        """Return the outputs that were asked for.

        Raises:
            Problem, ClientGone: the request is wrong, or not answered.
        """
        data, size = await self._read_input(ask, asked.inputs[0], binary)
        asked.inputs[0].data = None  # it may take 25 times the space, and the request may wait long
        messages.check_outputs(ask.model, asked, size)
        computed = await self._inference.compute(ask, data, size)
        return messages.outputs(ask.model, computed, asked), computed

    async def _read_input(self, ask: Ask, tensor: InputTensor, binary: tensors.Binary) -> tuple[bytes, int]:
        model = ask.model
        described = {d["name"]: d for d in inputs_of(model)}.get(tensor.name)
        if described is None:
            names = [d["name"] for d in inputs_of(model)]
            raise Unprocessable(f"input of {model.name} must be one of {names}. Given: {tensor.name!r}")
        size, limit = tensor.shape[0], self._inference.settings.max_images
        if size > limit:
            raise TooLarge(f"a request must hold at most {limit} inputs. Given: {size}")
        spec = model.manifest.input
        raw = dict(tensor)  # not a copy of what is in it
        if described["datatype"] == "BYTES" and isinstance(spec, ImageInput):
            files = tensors.read_bytes(raw, binary)
            binary.expect_end()
            return b"".join(map(_expect_good, await self._inference.decode_all(files, spec, ask))), len(files)
        data = tensors.read_numbers(raw, _DATATYPES[spec.dtype], spec.shape, binary)
        binary.expect_end()
        return data, size


def _expect_good(decoded: bytes | Problem) -> bytes:
    if isinstance(decoded, Problem):
        raise decoded
    return decoded
