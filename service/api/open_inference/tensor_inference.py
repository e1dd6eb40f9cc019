"""Inference on tensors: from those of a request to those of its answer."""

from __future__ import annotations

from functools import lru_cache

from service.api.inference import Ask, Computed, Inference
from service.api.open_inference import messages, tensors
from service.api.open_inference.messages import InferRequest, Outputs
from service.api.open_inference.metadata import inputs_of
from service.api.open_inference.tensors import InputTensor
from service.contract.manifest import ImageInput
from service.engine.served_models import ServedModel
from service.images import decode as images
from service.problems import Problem, TooLarge, Unprocessable


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
        return messages.outputs(ask.model, computed, asked, _blank(ask.model, data, size)), computed

    async def _read_input(self, ask: Ask, tensor: InputTensor, binary: tensors.Binary) -> tuple[bytes, int]:
        model = ask.model
        datatype = _datatypes(model).get(tensor.name)
        if datatype is None:
            names = list(_datatypes(model))
            raise Unprocessable(f"input of {model.name} must be one of {names}. Given: {tensor.name!r}")
        size, limit = tensor.shape[0], self._inference.settings.max_images
        if size > limit:
            raise TooLarge(f"a request must hold at most {limit} inputs. Given: {size}")
        spec = model.manifest.input
        if datatype == "BYTES" and isinstance(spec, ImageInput):
            files = tensors.read_bytes(tensor, binary)
            binary.expect_end()
            return b"".join(map(_expect_good, await self._inference.decode_all(files, spec, ask))), len(files)
        data = tensors.read_numbers(tensor, datatype, spec.shape, binary)
        binary.expect_end()
        return data, size


@lru_cache(maxsize=256)
def _datatypes(model: ServedModel) -> dict[str, str]:
    """Return the datatype of each input that a model takes, by its name."""
    return {described["name"]: described["datatype"] for described in inputs_of(model)}


def _blank(model: ServedModel, data: bytes, size: int) -> list[bool]:
    """Return of each input whether there is nothing to see in it, for a model that was not taught such."""
    spec = model.manifest.input
    if not model.blank_is_outlier or not isinstance(spec, ImageInput):
        return []
    step = model.input_bytes
    return [images.is_blank(data[start : start + step], spec) for start in range(0, size * step, step)]


def _expect_good(decoded: bytes | Problem) -> bytes:
    if isinstance(decoded, Problem):
        raise decoded
    return decoded
