"""The service's answers as values. Knows nothing about how they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class of `top_k`."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable class of one input; `top_k`, `probabilities` and `prediction_set` if asked for.

    `class_id` and `label` are None where the service abstains: in a blank picture, whose `probability` is None too, or
    an outlier if `abstain` was asked for. `outlier` is None from a version that cannot tell.
    """

    class_id: int | None
    label: str | None
    probability: float | None
    top_k: tuple[ClassProbability, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    prediction_set: tuple[ClassProbability, ...] | None = None
    outlier: bool | None = None
    outlier_percentile: float | None = None
    blank: bool = False
    model: str = ""
    version: int = 0
    request_id: str = field(default="", compare=False)  # by which feedback names it, with its place in the answer
    index: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PredictionError:
    """Why one input among several has no prediction; `status` is None for a file that could not be read."""

    status: int | None
    detail: str


Answer = Prediction | PredictionError


@dataclass(frozen=True, slots=True)
class Classified:
    """A file and what it shows."""

    path: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Health:
    """Whether predictions will come, the service's word for it, and each model as `name@version`."""

    ready: bool
    status: str
    models: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of one model that is served; `default` if it answers when no version is named."""

    name: str
    version: int
    default: bool
    aliases: tuple[str, ...]
    digest: str
    ready: bool
    input: Mapping[str, Any]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Models:
    """The models that are served, and which answers when a request names none."""

    default: str | None
    models: tuple[ModelInfo, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What a truth was told of: the prediction is None where the model abstained."""

    model: str
    version: int
    prediction: str | None
    truth: str
    outcome: str


@dataclass(frozen=True, slots=True)
class LiveAccuracy:
    """How often one version was right, of the `n` predictions with feedback; the interval holds that with 95 %."""

    model: str
    version: int
    n: int
    right: int
    abstained: int
    accuracy: float | None
    interval: tuple[float, float] | None


def answer_of(entry: Mapping[str, Any], model: str, version: int, request_id: str = "", index: int = 0) -> Answer:
    """Return an entry of "predictions" as a value.

    Raises:
        KeyError, TypeError: it is none.
    """
    if "error" in entry:
        return PredictionError(entry["error"]["status"], entry["error"]["detail"])
    probabilities = entry.get("probabilities")
    return Prediction(
        class_id=entry["class_id"],
        label=entry["label"],
        probability=entry["probability"],
        top_k=_class_probabilities(entry, "top_k"),
        probabilities=None if probabilities is None else tuple(probabilities),
        prediction_set=_class_probabilities(entry, "prediction_set"),
        outlier=entry.get("outlier"),
        outlier_percentile=entry.get("outlier_percentile"),
        blank=entry.get("blank", False),
        model=model,
        version=version,
        request_id=request_id,
        index=index,
    )


def told_of(document: Mapping[str, Any]) -> Told:
    """Return the answer of POST /feedback as a value.

    Raises:
        KeyError: it is none.
    """
    return Told(*(document[name] for name in ("model", "version", "prediction", "truth", "outcome")))


def accuracies_of(document: Mapping[str, Any]) -> tuple[LiveAccuracy, ...]:
    """Return the answer of GET /feedback as a value.

    Raises:
        KeyError, TypeError: it is none.
    """
    return tuple(
        LiveAccuracy(
            **{name: one[name] for name in ("model", "version", "n", "right", "abstained", "accuracy")},
            interval=None if one["interval"] is None else (one["interval"][0], one["interval"][1]),
        )
        for one in document["models"]
    )


def models_of(document: Mapping[str, Any]) -> Models:
    """Return the answer of /models as a value; what a later service adds to it is left out.

    Raises:
        KeyError, TypeError: it is none.
    """
    models = (
        ModelInfo(
            name=model["name"],
            version=model["version"],
            default=model["default"],
            aliases=tuple(model["aliases"]),
            digest=model["digest"],
            ready=model["ready"],
            input=model["input"],
            classes=tuple(model["classes"]),
        )
        for model in document["models"]
    )
    return Models(document["default"], tuple(models))


def _class_probabilities(entry: Mapping[str, Any], name: str) -> tuple[ClassProbability, ...] | None:
    if name not in entry:
        return None
    return tuple(ClassProbability(one["class_id"], one["label"], one["probability"]) for one in entry[name])
