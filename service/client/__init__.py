"""A client of the service: `Client`, or `AsyncClient` for code that is asynchronous.

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("digit.png").label)

Needs httpx alone: pictures, arrays and tensors are taken from libraries that their owner has imported already.
"""

from service.client.answers import (
    Classified,
    ClassProbability,
    Health,
    LiveAccuracy,
    ModelInfo,
    Models,
    Prediction,
    PredictionError,
    Told,
)
from service.client.asynchronous import AsyncClient
from service.client.blocking import Client
from service.client.errors import ClientError, Failed, NoAnswer, NotAllowed, NotFound, Refused, TimedOut, Unavailable
from service.client.retries import Retries

__all__ = [
    "AsyncClient",
    "ClassProbability",
    "Classified",
    "Client",
    "ClientError",
    "Failed",
    "Health",
    "LiveAccuracy",
    "ModelInfo",
    "Models",
    "NoAnswer",
    "NotAllowed",
    "NotFound",
    "Prediction",
    "PredictionError",
    "Refused",
    "Retries",
    "TimedOut",
    "Told",
    "Unavailable",
]
