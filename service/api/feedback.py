"""The paths of feedback: what predictions should have been, how often they were right, and the pairs of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from service.api import json_body
from service.api.response import json_response
from service.api.router import Route
from service.contract.manifest import ModelManifest
from service.engine.served_models import ServedModel
from service.http.messages import Request, Response
from service.problems import Conflict, Unavailable, Unprocessable
from service.settings import Settings
from service.shared_lock import SharedLock
from service.telemetry.feedback.accuracy import CONFIDENCE, Accuracy, accuracies
from service.telemetry.feedback.pairs import Pairs
from service.telemetry.feedback.recent import Recent, Remembered
from service.telemetry.metrics.totals import Totals
from service.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_BODY_VALUES = 16
_MOST_LABELS_SHOWN = 20

_LOCK_TRIES = 40  # of 25 ms each


class Truth(NamedTuple):
    """What a client says of one prediction: its class by name or number."""

    request_id: str
    position: int | None
    label: str | None
    class_id: int | None


class Feedback:
    """Takes truths and tells what they say; all paths need the scope feedback where keys are asked for.

    `recent` is None in a service that takes no feedback. `folder` gets a file to lock and, unless the settings name
    another folder, the pairs.
    """

    def __init__(
        self,
        recent: Recent | None,
        folder: Path,
        served: Callable[[], Iterable[ServedModel]],
        totals: Callable[[], Awaitable[Totals]],
        observer: Observer,
        settings: Settings,
    ) -> None:
        self._recent = recent
        self._served = served
        self._totals = totals
        self._observer = observer
        self._remembers = settings.feedback_predictions
        kept = Path(settings.feedback_dir) if settings.feedback_dir else folder / "feedback"
        self._pairs = Pairs(kept, keeps_inputs=bool(settings.feedback_dir), image_bytes=settings.feedback_bytes)
        # One after the other, also when a client leaves while the disk is slow: its truth is still being written then.
        self._thread = ThreadPoolExecutor(1, "feedback")  # which starts with the first task, after the fork
        self._lock = SharedLock(folder / "feedback.lock")

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/feedback", self._tell, self._check),
            Route("GET", "/feedback", self._accuracy, self._check),
            Route("GET", "/feedback/pairs", self._export, self._check),
        ]

    def _check(self, _: Request) -> None:
        if self._recent is None:
            raise Conflict(
                "the service must remember predictions for feedback, with --feedback-predictions N "
                "(SERVICE_FEEDBACK_PREDICTIONS). Given: one that remembers none"
            )

    async def _tell(self, request: Request) -> Response:
        truth = _parse(request.body)
        assert self._recent is not None  # noqa: S101 - `_check` saw to it
        self._recent.know(self._served())
        prediction = self._recent.find(truth.request_id, truth.position)
        class_id = _class_id(truth, prediction.model.manifest)
        on_thread = asyncio.get_running_loop().run_in_executor
        about = truth.request_id, prediction, class_id
        return json_response(await on_thread(self._thread, self._record, self._recent, *about))

    def _record(self, recent: Recent, request_id: str, prediction: Remembered, class_id: int) -> dict[str, Any]:
        """Write a truth down and count it, once.

        Raises:
            Conflict: another one was told before.
            Unavailable: the folder cannot be written to, or others keep it busy.
        """
        model, predicted = prediction.model, prediction.class_id
        outcome = "abstained" if predicted < 0 else "right" if predicted == class_id else "wrong"
        if not any(self._lock.take() for _ in range(_LOCK_TRIES)):
            raise Unavailable("feedback must be written down in a second. Given: more of it than that")
        try:
            before = recent.truth(prediction)
            if before is not None and before != class_id:
                raise Conflict(
                    f"a prediction has one truth, {model.classes[before]!r} as it was told first. "
                    f"Given: {model.classes[class_id]!r}"
                )
            kept, image = None, None  # as it was when it was told first
            if before is None:
                pair = self._pairs.add(request_id, prediction, class_id)
                recent.set_truth(prediction, class_id)
                self._observer.truth_told(model, outcome)
                kept, image = pair["kept"], pair["image"]
        except OSError as error:
            logger.error("feedback cannot be written down: %s", error)
            raise Unavailable("the folder of feedback must be writable. Given: one that is not; see the log") from error
        finally:
            self._lock.free()
        return {
            "model": model.name,
            "version": model.version,
            "index": prediction.position,
            "prediction": None if predicted < 0 else model.classes[predicted],
            "truth": model.classes[class_id],
            "outcome": outcome,
            "known_before": before is not None,
            "kept": kept,
            "image": image,
        }

    async def _accuracy(self, _: Request) -> Response:
        found = [_described(one) for one in accuracies(await self._totals())]
        return json_response({"remembers": self._remembers, "confidence": CONFIDENCE, "models": found})

    async def _export(self, _: Request) -> Response:
        return Response(200, await asyncio.to_thread(self._pairs.read), b"application/x-ndjson")


def _described(found: Accuracy) -> dict[str, Any]:
    return {
        "model": found.model,
        "version": int(found.version),
        "n": found.n,
        "right": found.right,
        "abstained": found.abstained,
        "accuracy": None if found.share is None else round(found.share, 6),
        "interval": None if found.interval is None else [round(bound, 6) for bound in found.interval],
    }


def _parse(body: bytes) -> Truth:
    """Return what a body tells.

    Raises:
        BadRequest, TooLarge: it is no JSON, or too much of it.
        Unprocessable: it is no such document.
    """
    document = json_body.parse(body, _BODY_VALUES)
    given: dict[str, Any] = document if isinstance(document, dict) else {}
    request_id, index = given.get("request_id"), given.get("index")
    label, class_id = given.get("label"), given.get("class_id")
    is_good = (
        set(given) <= {"request_id", "index", "label", "class_id"}
        and isinstance(request_id, str)
        and (index is None or (type(index) is int and index >= 0))
        and ((isinstance(label, str) and class_id is None) or (type(class_id) is int and label is None))
    )
    if not is_good or not isinstance(request_id, str):
        raise Unprocessable(
            'the body must be {"request_id": text, "label": text} or {"request_id": text, "class_id": number}, and '
            f'"index" for one of several predictions. Given: {json_body.describe(document)}'
        )
    return Truth(request_id, index, label, class_id)


def _class_id(truth: Truth, manifest: ModelManifest) -> int:
    """Return the class that is told.

    Raises:
        Unprocessable: the model has no such class.
    """
    classes = manifest.classes
    if truth.label is not None:
        if truth.label in classes:
            return classes.index(truth.label)
    elif truth.class_id is not None and 0 <= truth.class_id < len(classes):
        return truth.class_id
    shown = ", ".join(classes[:_MOST_LABELS_SHOWN]) + ", ..." * (len(classes) > _MOST_LABELS_SHOWN)
    what = f"class_id must be from 0 to {len(classes) - 1}, for" if truth.label is None else "label must be one of"
    given = truth.class_id if truth.label is None else json_body.describe(truth.label)
    raise Unprocessable(f"{what} the classes of {manifest.name}@{manifest.version}: {shown}. Given: {given}")
