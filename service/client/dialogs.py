"""The questions and how answers are understood, shared by both clients.

A dialog is a generator: it yields requests, is sent responses and returns a value. Knows nothing about sockets, time,
threads or event loops.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

import httpx

from service.client.answers import (
    Answer,
    Health,
    LiveAccuracy,
    Models,
    Prediction,
    PredictionError,
    Told,
    accuracies_of,
    models_of,
    told_of,
)
from service.client.batches import Encoded
from service.client.errors import Failed, Refused, error_of
from service.client.responses import document_of, error_in, not_the_service, read_predictions

T = TypeVar("T")

_OF_ONE_IMAGE = frozenset({400, 413, 422, 500})
"""Statuses that may speak of what an image is (500: the model fails on it), not of who asks or what for."""


@dataclass(frozen=True)
class Request:
    """One request, apart from where it goes."""

    method: Literal["GET", "POST"]
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


Dialog = Generator[Request, httpx.Response, T]


class PredictOptions(TypedDict, total=False):
    """The keyword arguments of every way to predict; `Options` has the defaults."""

    model: str | None
    version: int | str | None
    top_k: int | None
    probabilities: bool
    abstain: bool
    coverage: float | None


@dataclass(frozen=True)
class Options:
    """The wishes of a caller: which model (the service's default) and version (the one in production, a number or an
    alias), the `top_k` most probable classes, the probabilities of all, no label for outliers (`abstain`), the set of
    classes that holds the truth as often as `coverage` says.
    """

    model: str | None = None
    version: int | str | None = None
    top_k: int | None = None
    probabilities: bool = False
    abstain: bool = False
    coverage: float | None = None
    bulk: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1. Given: {self.top_k}")

    def params(self) -> dict[str, str]:
        given = {"model": self.model, "version": self.version, "top_k": self.top_k, "coverage": self.coverage}
        params = {name: str(value) for name, value in given.items() if value is not None}
        params |= {"probabilities": "true"} if self.probabilities else {}
        params |= {"abstain": "true"} if self.abstain else {}
        return params | ({"priority": "bulk"} if self.bulk else {})


def predict(image: bytes, options: Options) -> Dialog[Prediction]:
    """Return the prediction for one image.

    Raises:
        ClientError: there is none.
    """
    request = Request("POST", "/predict", image, {"content-type": "application/octet-stream"}, options.params())
    answers = read_predictions((yield request), 1)
    if isinstance(answers[0], PredictionError):
        raise error_of(answers[0].status or 500, answers[0].detail, None)
    return answers[0]


def predict_batch(images: Sequence[Encoded], options: Options) -> Dialog[list[Answer]]:
    """Return an answer for each image, those that could not be read included.

    Raises:
        ClientError: of the request, not of an image: no such model, no service.
    """
    good = [image for image in images if isinstance(image, bytes)]
    answers = iter((yield from _predict_good(good, options)))
    return [next(answers) if isinstance(image, bytes) else image for image in images]


def _predict_good(images: Sequence[bytes], options: Options) -> Dialog[list[Answer]]:
    if len(images) > 1:
        document = {"images": [base64.b64encode(image).decode() for image in images]}
        try:
            response = yield _post_json(document, options)
            return read_predictions(response, len(images))
        except (Refused, Failed) as refusal:
            if refusal.status not in _OF_ONE_IMAGE:
                raise
            # All of them are bad, or together they are too many: each is told about itself.
    answers: list[Answer] = []
    for image in images:
        try:
            answers.append((yield from predict(image, options)))
        except (Refused, Failed) as error:
            if error.status not in _OF_ONE_IMAGE:
                raise
            answers.append(PredictionError(error.status, error.detail))
    return answers


def predict_features(rows: Sequence[Sequence[float]], options: Options) -> Dialog[list[Answer]]:
    """Return an answer for each feature vector.

    Raises:
        ClientError: the service refuses them; one bad row refuses all.
    """
    return read_predictions((yield _post_json({"features": rows}, options)), len(rows))


def health() -> Dialog[Health]:
    """Return whether the service is ready; that it is not is an answer.

    Raises:
        Failed: what answers is not the service.
    """
    response = yield Request("GET", "/readyz")
    if response.status_code not in (200, 503):
        raise error_in(response)
    document = document_of(response)
    if not isinstance(ready := document.get("models", {}), dict):
        raise not_the_service(response)
    return Health(response.status_code == 200, str(document.get("status")), ready)


def models() -> Dialog[Models]:
    """Return which models are served.

    Raises:
        ClientError: the service does not say.
    """
    response = yield Request("GET", "/models")
    if response.status_code != 200:
        raise error_in(response)
    try:
        return models_of(document_of(response))
    except (KeyError, TypeError, AttributeError) as error:
        raise not_the_service(response) from error


def feedback(prediction: Prediction | str, truth: str | int, index: int | None) -> Dialog[Told]:
    """Tell the class that a prediction should have been, by its label or number.

    Raises:
        ClientError: the service does not take it.
    """
    document: dict[str, Any] = {"request_id": prediction}
    if isinstance(prediction, Prediction):
        document, index = {"request_id": prediction.request_id}, prediction.index if index is None else index
    document |= {"label": truth} if isinstance(truth, str) else {"class_id": truth}
    document |= {} if index is None else {"index": index}
    response = yield Request("POST", "/feedback", json.dumps(document).encode(), {"content-type": "application/json"})
    if response.status_code != 200:
        raise error_in(response)
    try:
        return told_of(document_of(response))
    except KeyError as error:
        raise not_the_service(response) from error


def accuracies() -> Dialog[tuple[LiveAccuracy, ...]]:
    """Return how often each version was right, as feedback has it.

    Raises:
        ClientError: the service does not say.
    """
    response = yield Request("GET", "/feedback")
    if response.status_code != 200:
        raise error_in(response)
    try:
        return accuracies_of(document_of(response))
    except (KeyError, TypeError, AttributeError) as error:
        raise not_the_service(response) from error


def pairs() -> Dialog[list[dict[str, Any]]]:
    """Return the predictions with feedback and their truths.

    Raises:
        ClientError: the service does not give them.
    """
    response = yield Request("GET", "/feedback/pairs")
    if response.status_code != 200:
        raise error_in(response)
    try:
        pairs = [json.loads(line) for line in response.content.splitlines()]  # of text, U+2028 ends one, too
    except (ValueError, RecursionError) as error:
        raise not_the_service(response) from error
    if not all(isinstance(pair, dict) for pair in pairs):
        raise not_the_service(response)
    return pairs


def _post_json(document: Mapping[str, Any], options: Options) -> Request:
    content = json.dumps(document, separators=(",", ":")).encode()
    return Request("POST", "/predict", content, {"content-type": "application/json"}, options.params())
