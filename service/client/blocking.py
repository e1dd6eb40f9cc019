"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from service.client import dialogs
from service.client.answers import Answer, Health, LiveAccuracy, Models, Prediction, Told
from service.client.batches import cut
from service.client.dialogs import Dialog, Options, PredictOptions, Request
from service.client.inputs import encode, rows_of
from service.client.retries import Retries
from service.client.wire import DEFAULT_URL, TIMEOUT_SECONDS, Attempts, http_options, http_request, opening

if TYPE_CHECKING:
    from service.client.inputs import Features, ImageLike

T = TypeVar("T")


class Client:
    """Asks the service, and waits for the answer. May be shared by threads; close it, or use it in a `with`.

    Every method raises ClientError: `Refused` for what is wrong with the request, `Unavailable` and `NoAnswer` once the
    retries are used up.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = retries or Retries()
        options = http_options(url, api_key, timeout_seconds)
        with opening():
            self._http = httpx.Client(transport=transport, **options)

    def predict(self, image: ImageLike, **options: Unpack[PredictOptions]) -> Prediction:
        """Classify one image: a path, bytes, a file, a PIL image, uint8 [H, W] or [H, W, 3], or a tensor."""
        return self._run(dialogs.predict(encode(image), Options(**options)))

    def predict_many(self, images: Iterable[ImageLike], **options: Unpack[PredictOptions]) -> list[Answer]:
        """Return an answer for each image, in order; for one that is no image or cannot be read, a PredictionError.

        Any number of images: they are read and sent in requests of a size that the service takes.
        """
        answers: list[Answer] = []
        for batch in cut(images):
            answers += self._run(dialogs.predict_batch([encoded for _, encoded in batch], Options(**options)))
        return answers

    def features(self, rows: Features, **options: Unpack[PredictOptions]) -> list[Answer]:
        """Return an answer for each feature vector: lists of numbers, or an array or a tensor [N, F]."""
        return self._run(dialogs.predict_features(rows_of(rows), Options(**options)))

    def health(self) -> Health:
        """Return whether predictions will come; asked once, since "not ready" is an answer."""
        return self._run(dialogs.health(), Retries(attempts=1))

    def models(self) -> Models:
        """Return which models are served."""
        return self._run(dialogs.models())

    def feedback(self, prediction: Prediction | str, truth: str | int, *, index: int | None = None) -> Told:
        """Tell the class, by label or number, that a prediction, or the one of a request id, should have been."""
        return self._run(dialogs.feedback(prediction, truth, index))

    def accuracies(self) -> tuple[LiveAccuracy, ...]:
        """Return how often each version was right, of the predictions with feedback."""
        return self._run(dialogs.accuracies())

    def pairs(self) -> list[dict[str, Any]]:
        """Return the predictions with feedback and their truths, for retraining."""
        return self._run(dialogs.pairs())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, dialog: Dialog[T], retries: Retries | None = None) -> T:
        try:
            request = next(dialog)
            while True:
                request = dialog.send(self._send(request, retries or self._retries))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request, retries: Retries) -> httpx.Response:
        attempts = Attempts(retries, self._http.base_url)
        while True:
            try:
                response = self._http.request(**http_request(request))
            except httpx.RequestError as error:
                wait = attempts.after_error(error)
            else:
                final = attempts.after_response(response)
                if final is None:
                    return response
                wait = final
            time.sleep(wait)
