"""The protocol's documents about what is served, which REST sends as JSON and gRPC as messages."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from service.contract.manifest import ImageInput
from service.engine.served_models import ServedModel, ServedModels
from service.telemetry.drift import State

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
PLATFORM = "pytorch_torchscript"

_CONFIG_TYPES = {
    "UINT8": "TYPE_UINT8",
    "FP32": "TYPE_FP32",
    "INT32": "TYPE_INT32",
    "BYTES": "TYPE_STRING",
    "BOOL": "TYPE_BOOL",
}
_STATES = {"loading": "LOADING", "refused": "UNAVAILABLE", "unloaded": "UNAVAILABLE", "quarantined": "UNAVAILABLE"}

Document = dict[str, Any]


def server() -> Document:
    """Describe the server."""
    return {"name": "argmax", "version": version("argmax"), "extensions": EXTENSIONS}


def index(served: ServedModels, *, ready_only: bool) -> list[Document]:
    """List every version that is served and, unless `ready_only`, those that are in the registry and are not."""
    listed = [
        {"name": model.name, "version": str(model.version), "state": "READY", "reason": ""} for model in served.models()
    ]
    if not ready_only:
        listed += [
            {"name": v.name, "version": str(v.version or ""), "state": _STATES[v.state], "reason": v.reason}
            for v in served.absent()
        ]
    return listed


def versions(served: ServedModels, model: str | None = None, version: str | None = None) -> list[ServedModel]:
    """Return the versions that are meant: all, those of a model, or one.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: it is being loaded.
    """
    if model is None:
        return served.models()
    meant = served.resolve(model, version)
    return [meant] if version is not None else [other for other in served.models() if other.name == meant.name]


def metadata(served: ServedModels, model: ServedModel) -> Document:
    """Describe a model's versions, inputs and outputs."""
    return {
        "name": model.name,
        "versions": [str(other.version) for other in served.models() if other.name == model.name],
        "platform": PLATFORM,
        "inputs": inputs_of(model),
        "outputs": outputs_of(model),
    }


def config(model: ServedModel, max_batch_size: int) -> Document:
    """Describe a model as Triton's configuration does."""

    def listed(described: list[Document]) -> list[Document]:
        return [
            {"name": d["name"], "data_type": _CONFIG_TYPES[d["datatype"]], "dims": d["shape"][1:] or [1]}
            for d in described
        ]

    return {
        "name": model.name,
        "platform": PLATFORM,
        "max_batch_size": max_batch_size,
        "input": listed(inputs_of(model)),
        "output": listed(outputs_of(model)),
        "parameters": {key: {"string_value": str(value).lower()} for key, value in parameters_of(model).items()},
    }


def inputs_of(model: ServedModel) -> list[Document]:
    """Describe the inputs that a model takes: its tensor or, for images, encoded files as BYTES."""
    spec = model.input
    if isinstance(spec, ImageInput):
        return [
            {"name": "images", "datatype": "UINT8", "shape": [-1, *spec.shape]},
            {"name": "files", "datatype": "BYTES", "shape": [-1]},
        ]
    return [{"name": "features", "datatype": "FP32", "shape": [-1, *spec.shape]}]


def outputs_of(model: ServedModel) -> list[Document]:
    """Describe the outputs that a model gives."""
    classes = len(model.classes)
    found = [
        {"name": "class_ids", "datatype": "INT32", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
    ]
    if model.outliers is not None:
        found += [
            {"name": "outliers", "datatype": "BOOL", "shape": [-1]},
            {"name": "outlier_percentiles", "datatype": "FP32", "shape": [-1]},
        ]
    return found


def drift_of(state: State | None) -> dict[str, str | int | float]:
    """Describe how a model's latest predictions compare with those for held-out inputs."""
    if state is None:
        return {"drift": "not watched, because the manifest has no distributions"}
    ratios = {f"drift_{name}": round(ratio, 3) for name, ratio in state.ratios.items()}
    return {"drift": state.text, "drift_images": state.images, "drift_window": state.window, **ratios}


def parameters_of(model: ServedModel) -> dict[str, str | int | float]:
    """Describe how the workers compute a model, and the evidence for or against each half-precision form."""
    form = model.form
    evidence = {
        f"{evidence.form}_{key}": value
        for evidence in model.manifest.half_precision
        for key, value in evidence.model_dump(exclude={"form"}).items()
    }
    return {"form": form.name, "threads": form.threads, "device": form.device, "graphs": form.graphs, **evidence}
