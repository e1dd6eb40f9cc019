"""What is served, in the protocol's words: the documents that REST sends as JSON and gRPC as messages."""

from __future__ import annotations

from typing import Any

from service.contract.manifest import ImageInput
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel
from service.heartbeats import Vitals
from service.problems import Unavailable
from service.settings import Settings

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
PLATFORM = "pytorch_torchscript"

_CONFIG_TYPES = {"UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32", "BYTES": "TYPE_STRING"}
_STATES = {"loading": "LOADING", "refused": "UNAVAILABLE"}

Document = dict[str, Any]


def inputs_of(model: ServedModel) -> list[Document]:
    """The ways to say a model's input: its tensor or, for images, encoded files as BYTES."""
    spec = model.manifest.input
    if isinstance(spec, ImageInput):
        return [
            {"name": "images", "datatype": "UINT8", "shape": [-1, *spec.shape]},
            {"name": "files", "datatype": "BYTES", "shape": [-1]},
        ]
    return [{"name": "features", "datatype": "FP32", "shape": [-1, *spec.shape]}]


def form_of(model: ServedModel) -> dict[str, str | int | float]:
    """How the workers compute a model, and the evidence for or against each half-precision form."""
    form = model.form
    return {
        "form": form.name,
        "threads": form.threads,
        "device": form.device,
        "graphs": form.graphs,
        **{
            f"{evidence.form}_{key}": value
            for evidence in model.manifest.half_precision
            for key, value in evidence.model_dump(exclude={"form"}).items()
        },
    }


def outputs_of(model: ServedModel) -> list[Document]:
    classes = len(model.classes)
    return [
        {"name": "class_ids", "datatype": "INT32", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
    ]


class Repository:
    """The server and its models, as one process sees them."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings, vitals: Vitals, version: str) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._vitals = vitals
        self._version = version

    def find(self, name: str, version: str | None) -> ServedModel:
        """The model that is asked for; without a version, the one that answers by default.

        Raises:
            NotFound, Unavailable: as `Offer.resolve`.
        """
        return self._dispatcher.offer.resolve(name, version)

    def is_ready(self) -> bool:
        """Return whether models are loaded and some can be computed, and the service is not about to stop."""
        offer = self._dispatcher.offer
        return not self._vitals.draining and offer.is_complete and any(map(self._dispatcher.is_ready, offer.models()))

    def expect_ready(self, model: ServedModel) -> None:
        """Raises Unavailable if no worker would compute for `model` now."""
        if not self._dispatcher.is_ready(model):
            raise Unavailable(f"a worker must serve {model.name}. Given: none at the moment")

    def server(self) -> Document:
        return {"name": "argmax", "version": self._version, "extensions": EXTENSIONS}

    def index(self, *, ready: bool) -> list[Document]:
        """Every version that is served and, unless only what is `ready` counts, those that are not."""
        listed = [
            {"name": model.name, "version": str(model.version), "state": "READY", "reason": ""}
            for model in self._dispatcher.offer.models()
        ]
        if not ready:
            listed += [
                {"name": v.name, "version": str(v.version), "state": _STATES[v.state], "reason": v.reason}
                for v in self._dispatcher.offer.absent()
            ]
        return listed

    def metadata(self, model: ServedModel) -> Document:
        served = self._dispatcher.offer.models()
        return {
            "name": model.name,
            "versions": [str(other.version) for other in served if other.name == model.name],
            "platform": PLATFORM,
            "inputs": inputs_of(model),
            "outputs": outputs_of(model),
        }

    def config(self, model: ServedModel) -> Document:
        def listed(described: list[Document]) -> list[Document]:
            return [
                {"name": d["name"], "data_type": _CONFIG_TYPES[d["datatype"]], "dims": d["shape"][1:] or [1]}
                for d in described
            ]

        return {
            "name": model.name,
            "platform": PLATFORM,
            "max_batch_size": self._settings.max_images,
            "input": listed(inputs_of(model)),
            "output": listed(outputs_of(model)),
            "parameters": {key: {"string_value": str(value).lower()} for key, value in form_of(model).items()},
        }
