"""Inference on tensors: from those of a request to those of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache, partial

from msgspec import UNSET

from service.api.exchange import Content, Inputs
from service.api.inference import Ask, Computed, Inference
from service.api.open_inference import messages, tensors
from service.api.open_inference.messages import Outputs
from service.api.open_inference.metadata import inputs_of
from service.api.open_inference.schema import InferRequest
from service.contract.manifest import ImageInput
from service.counting import counted
from service.engine.served_models import ServedModel
from service.images import decode as images
from service.problems import Problem, TooLarge, Unprocessable

Answer = Callable[[ServedModel, InferRequest, Outputs], Content]
"""Encodes outputs as the answer to a request."""


class TensorInference:
    """The part that REST and gRPC have in common, once a request is parsed."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._max_images = inference.settings.max_images

    def find(
        self, ask: Ask, asked: InferRequest, binary: tensors.Binary, answer: Answer[Content]
    ) -> Inputs[Content] | Awaitable[Inputs[Content]]:
        """Return the inputs of a request, of whose outputs `answer` makes what it is answered with.

        Raises:
            Problem, ClientGone: the request is wrong, or nobody waits for it.
        """
        model, tensor = ask.model, asked.inputs[0]
        datatype = _datatypes(model).get(tensor.name)
        if datatype is None:
            names = list(_datatypes(model))
            raise Unprocessable(f"input of {model.name} must be one of {names}. Given: {tensor.name!r}")
        size, limit = tensor.shape[0], self._max_images
        if size > limit:
            raise TooLarge(f"a request must hold at most {counted(limit, 'input')}. Given: {size}")
        spec = model.input
        if datatype == "BYTES" and isinstance(spec, ImageInput):
            files = tensors.read_bytes(tensor, binary)
            binary.expect_end()
            return self._decoded(ask, asked, answer, spec, files)
        data = tensors.read_numbers(tensor, datatype, spec.shape, binary)
        binary.expect_end()
        return _inputs(model, asked, answer, data, size)

    async def _decoded(
        self, ask: Ask, asked: InferRequest, answer: Answer[Content], spec: ImageInput, files: list[bytes]
    ) -> Inputs[Content]:
        data = b"".join(map(_expect_good, await self._inference.decode_all(files, spec, ask)))
        return _inputs(ask.model, asked, answer, data, len(files))


def _inputs(
    model: ServedModel, asked: InferRequest, answer: Answer[Content], data: bytes, size: int
) -> Inputs[Content]:
    asked.inputs[0].data = UNSET  # it may take eight times the space, and the request may wait long
    messages.check_outputs(model, asked, size)
    return Inputs(data, size, partial(_encode, model, asked, answer, _blank(model, data, size)))


def _encode(
    model: ServedModel, asked: InferRequest, answer: Answer[Content], blank: list[bool], computed: Computed
) -> Content:
    return answer(model, asked, messages.outputs(model, computed, asked, blank))


@lru_cache(maxsize=256)
def _datatypes(model: ServedModel) -> dict[str, str]:
    """Return the datatype of each input that a model takes, by its name."""
    return {described["name"]: described["datatype"] for described in inputs_of(model)}


def _blank(model: ServedModel, data: bytes, size: int) -> list[bool]:
    """Return of each input whether there is nothing to see in it, for a model that was not taught such."""
    spec = model.input
    if not model.blank_is_outlier or not isinstance(spec, ImageInput):
        return []
    step = model.input_bytes
    return [images.is_blank(data[i * step : (i + 1) * step], spec) for i in range(size)]


def _expect_good(decoded: bytes | Problem) -> bytes:
    if isinstance(decoded, Problem):
        raise decoded
    return decoded
