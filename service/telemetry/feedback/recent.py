"""The latest predictions by the ids of their requests, in memory that all processes of a service share.

Each process writes in a part of its own, so that no prediction waits for a lock, and looks into all parts: a truth
finds its prediction whichever process it reaches. The oldest predictions are overwritten. Inputs are remembered only if
somebody keeps them, in 64 MiB.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from service.counting import counted
from service.engine.queues import Part
from service.engine.served_models import ServedModel
from service.problems import NotFound, Unprocessable

INPUT_BYTES = 64 * 2**20

NO_CLASS = -1
"""The class id of a prediction that named none: the model abstained."""

_MOST_MODELS = 256

_PREDICTION = struct.Struct("<qdqqIif4x")
_PREDICTIONS = np.dtype(
    [
        ("request", "<i8"),
        ("time", "<f8"),  # on time.monotonic()'s clock; all predictions of a request have the same
        ("model", "<i8"),
        ("input", "<i8"),  # where its input begins, counted from the first that the process ever wrote; -1 for none
        ("index", "<u4"),
        ("class_id", "<i4"),
        ("confidence", "<f4"),
        ("unused", "V4"),
    ]
)
_TRUTHS = np.dtype([("time", "<f8"), ("truth", "<i4"), ("unused", "V4")])


class Remembered(NamedTuple):
    """A prediction, and where it is kept."""

    part: int
    place: int
    time: float
    position: int
    model: ServedModel
    class_id: int
    confidence: float
    input: bytes | None


class Recent:
    """At most `predictions` predictions; make it before the forks, with the number of processes that will write.

    `remember` is for one thread of each process. Ids and versions are told by Python's hashes of their names: forks
    share the secret that goes into them.
    """

    def __init__(self, predictions: int, processes: int, *, keeps_inputs: bool = False) -> None:
        self.size = max(1, predictions // processes)
        self._input_size = INPUT_BYTES // processes if keeps_inputs else 0
        shape = processes, self.size
        self._memory = mmap.mmap(-1, processes * self.size * _PREDICTION.size)
        self._predictions = np.frombuffer(self._memory, _PREDICTIONS).reshape(shape)
        self._truths = np.frombuffer(mmap.mmap(-1, processes * self.size * _TRUTHS.itemsize), _TRUTHS).reshape(shape)
        self._inputs = mmap.mmap(-1, max(1, processes * self._input_size))
        self._written = memoryview(mmap.mmap(-1, 2 * 8 * processes)).cast("q")  # predictions and inputs, of each part
        self._models: dict[int, ServedModel] = {}
        self.open(0)

    def open(self, number: int) -> None:
        """Begin to write in the part of the process `number`, which goes on where one before it ended."""
        self._part = number
        self._next, self._next_input = self._written[2 * number], self._written[2 * number + 1]

    def know(self, models: Iterable[ServedModel]) -> None:
        """Note the versions that are served: a truth may come when the version is not any more."""
        for model in models:
            self._models.setdefault(hash(model.identity), model)
        while len(self._models) > _MOST_MODELS:
            del self._models[next(iter(self._models))]

    def remember(
        self,
        request_id: str,
        model: ServedModel,
        parts: Iterable[Part],
        inputs: bytes,
        *,
        places: Sequence[int] | None = None,
        abstains: bool = False,
    ) -> None:
        """Remember what was predicted for the inputs of a request, back to back in `inputs`.

        `places` are those of the predictions in its answer, if they are not the first. With `abstains`, outliers got no
        label.
        """
        request, version, now = hash(request_id), hash(model.identity), time.monotonic()
        first = self._part * self.size
        count = 0
        for part in parts:
            answer = part.answer
            for i in range(part.start, part.start + part.size):
                class_id = answer.class_ids[i]
                if class_id < 0:  # the model failed on it, and nothing was predicted
                    count += 1
                    continue
                if abstains and model.outliers is not None and not answer.scores[i] <= model.outliers.threshold:
                    class_id = NO_CLASS
                kept = -1
                if self._input_size:
                    kept = self._keep(inputs[count * model.input_bytes : (count + 1) * model.input_bytes])
                _PREDICTION.pack_into(
                    self._memory,
                    (first + self._next % self.size) * _PREDICTION.size,
                    request,
                    now,
                    version,
                    kept,
                    count if places is None else places[count],
                    class_id,
                    answer.confidences[i],
                )
                self._next += 1
                count += 1
        self._written[2 * self._part] = self._next

    def find(self, request_id: str, index: int | None = None) -> Remembered:
        """Return the prediction at `index` in the answer to a request, or its only one; of equal ids, the latest.

        Raises:
            NotFound: the request is not remembered, or not any more.
            Unprocessable: it has several predictions and `index` names none of them.
        """
        request = hash(request_id)
        parts, places = (self._predictions["request"] == request).nonzero()
        found = self._predictions[parts, places]
        found = found[found["time"] > 0]
        if not len(found):
            raise NotFound(
                f"request_id must be of one of the latest {counted(self._predictions.size, 'prediction')}"
                f"{self._since()}. "
                f"Given: {request_id[:128]!r}, which is none, or of a request without predictions"
            )
        latest = found["time"] == found["time"].max()
        indices = found["index"][latest].tolist()
        if index is None and len(indices) == 1:
            index = indices[0]
        if index not in indices:
            given = "none" if index is None else index
            raise Unprocessable(f"index must be one of the request's predictions, {_some(indices)}. Given: {given}")
        chosen = int(latest.nonzero()[0][indices.index(index)])
        return self._read(int(parts[chosen]), int(places[chosen]), request, request_id)

    def truth(self, prediction: Remembered) -> int | None:
        """Return the class that a prediction should have been, if that was told already."""
        known = self._truths[prediction.part, prediction.place]
        return int(known["truth"]) if known["time"] == prediction.time else None

    def set_truth(self, prediction: Remembered, class_id: int) -> None:
        """Note the class that a prediction should have been; the caller sees to it that nobody else does."""
        self._truths[prediction.part, prediction.place] = prediction.time, class_id, b""

    def _keep(self, data: bytes) -> int:
        """Copy an input; return where it begins, or -1 if it is larger than all of the memory."""
        size, start = self._input_size, self._next_input
        if len(data) > size:
            return -1
        if start % size + len(data) > size:  # no input is in two pieces
            start += size - start % size
        self._next_input = start + len(data)
        self._written[2 * self._part + 1] = self._next_input  # first, so that a reader knows what is about to go
        place = self._part * size + start % size
        self._inputs[place : place + len(data)] = data
        return start

    def _read(self, part: int, place: int, request: int, request_id: str) -> Remembered:
        row = self._predictions[part, place].copy()
        model = self._models.get(int(row["model"]))
        kept = None
        if model is not None and row["input"] >= 0:
            start, length = int(row["input"]), model.input_bytes
            begin = part * self._input_size + start % self._input_size
            kept = bytes(self._inputs[begin : begin + length])
            if self._written[2 * part + 1] - start > self._input_size:
                kept = None
        # A process that overwrites the prediction writes the request first: what is still there was read whole.
        is_whole = self._predictions[part, place]["request"] == request == row["request"]
        if model is None or not is_whole or row["time"] != self._predictions[part, place]["time"]:
            raise NotFound(f"request_id must be of a prediction that is remembered. Given: {request_id[:128]!r}")
        return Remembered(
            part,
            place,
            float(row["time"]),
            int(row["index"]),
            model,
            int(row["class_id"]),
            float(row["confidence"]),
            kept,
        )

    def _since(self) -> str:
        times = self._predictions["time"]
        if not times.all():  # there is room for more
            return ""
        return f", at present those of the last {time.monotonic() - times.min(axis=1).max():,.0f} s"


def _some(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(indices)[:10]))
    return f"{shown}, ..." if len(indices) > 10 else shown
