"""Predictions with their truths, a JSON object a line, and the images that they are of, in a folder.

    FOLDER/pairs.jsonl
    FOLDER/images/MODEL/TRUTH/TIME-INDEX-PLACE.png

Images are as the model saw them, and lie by their truth, as a data set does. A folder that is full takes no more: what
people labelled is never deleted. Knows nothing about how a truth finds its prediction.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import orjson

from service.contract.manifest import ImageInput
from service.images.decode import picture
from service.telemetry.feedback.recent import Remembered

logger = logging.getLogger(__name__)

MOST_BYTES = 48 * 2**20
"""Of the file of pairs, so that it can be sent in one answer: some 200,000 pairs."""

_FILE = "pairs.jsonl"
_IMAGES = "images"
_FIT_FOR_A_FOLDER = re.compile(r"[\w][\w .,()+-]{0,99}")
_LOOK_SECONDS = 10.0


class Pairs:
    """The pairs in `folder`; whoever adds one sees to it that nobody else does at the same time.

    With `keeps_inputs`, images are kept, at most `image_bytes` of them, and the features of models that take such.
    """

    def __init__(self, folder: Path, *, keeps_inputs: bool, image_bytes: int) -> None:
        self._folder = folder
        self._keeps_inputs = keeps_inputs
        self._image_bytes = image_bytes
        self._looked = -_LOOK_SECONDS
        self._held = 0

    def add(self, request_id: str, prediction: Remembered, truth: int) -> dict[str, Any]:
        """Write down a pair and return it; its "kept" says whether there was room for it.

        Raises:
            OSError: the folder cannot be written to.
        """
        model = prediction.model
        label = model.classes[prediction.class_id] if prediction.class_id >= 0 else None
        pair: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request_id,
            "index": prediction.position,
            "model": model.name,
            "version": model.version,
            "prediction": label,
            "probability": None if label is None else round(prediction.confidence, 6),
            "truth": model.classes[truth],
            "image": None,
        }
        path = self._folder / _FILE
        self._folder.mkdir(parents=True, exist_ok=True)
        is_full = path.exists() and path.stat().st_size >= MOST_BYTES
        if is_full:
            logger.warning("%s is full, with %d bytes; move it away so that more feedback is kept", path, MOST_BYTES)
        elif self._keeps_inputs and prediction.input is not None:
            pair |= self._kept(prediction.input, prediction, truth)
        if not is_full:
            _append(path, orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE))
        return pair | {"kept": not is_full}

    def read(self) -> bytes:
        """Return all pairs, a JSON object a line."""
        try:
            return (self._folder / _FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def _kept(self, data: bytes, prediction: Remembered, truth: int) -> dict[str, Any]:
        """Keep an input; return what a pair says of it."""
        spec = prediction.model.manifest.input
        if not isinstance(spec, ImageInput):
            return {"features": memoryview(data).cast("f").tolist()}
        image = picture(data, spec)
        if not self._has_room_for(len(image)):
            return {}
        name = prediction.model.classes[truth]
        folder = Path(_IMAGES, prediction.model.name, name if _FIT_FOR_A_FOLDER.fullmatch(name) else f"class-{truth}")
        (self._folder / folder).mkdir(parents=True, exist_ok=True)
        file = folder / f"{time.time_ns()}-{prediction.part}-{prediction.place}.png"
        _append(self._folder / file, image)
        self._held += len(image)
        return {"image": file.as_posix()}

    def _has_room_for(self, size: int) -> bool:
        """Return whether the folder may hold another image; what others put there is seen within ten seconds."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._held = sum(file.stat().st_size for file in (self._folder / _IMAGES).rglob("*.png"))
            if self._held + size > self._image_bytes:
                logger.warning("%s holds %d bytes of images; further ones are not kept", self._folder, self._held)
        return self._held + size <= self._image_bytes


def _append(path: Path, data: bytes) -> None:
    """Write all of `data` behind what a file holds, or nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before = os.fstat(file).st_size
        if os.write(file, data) < len(data):
            os.ftruncate(file, before)
            raise OSError(f"{path} must have room for {len(data)} bytes. Given: a disk that is full")
    finally:
        os.close(file)
