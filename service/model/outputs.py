"""The outputs of a model for a batch, and batches whose outputs are still to come. Knows nothing about devices."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

_NO_SCORES = np.empty(0, np.float32)

_FEW_CLASSES = 64
"""Of up to so many, Python classifies one input sooner than numpy: 10 classes took 6 us and not 24. For a single client
that was 53 us of 814, because between requests the dozen numpy functions leave the processor's caches."""


class Outputs(NamedTuple):
    """The predictions of a model for a batch."""

    class_ids: npt.NDArray[np.int32]  # [N]; -1 where the logits are not finite
    confidences: npt.NDArray[np.float32]  # [N], the calibrated probability of that class
    logits: npt.NDArray[np.float32]  # [N, K]
    scores: npt.NDArray[np.float32] = _NO_SCORES  # [N], how foreign each input is; [0] from a model that does not say

    @classmethod
    def of(
        cls, logits: npt.NDArray[np.float32], scores: npt.NDArray[np.float32] | None = None, *, temperature: float
    ) -> Outputs:
        """Classify logits [N, K], whose outlier scores are [N] if there are any.

        Of a dozen small steps, for which numpy needs half as long as torch.
        """
        scores = _NO_SCORES if scores is None else scores
        if len(logits) == 1 and logits.size <= _FEW_CLASSES:
            class_id, confidence = _classify(logits[0].tolist(), temperature)
            return cls(np.array([class_id], np.int32), np.array([confidence], np.float32), logits, scores)
        with np.errstate(invalid="ignore"):  # logits that are not finite
            scaled = logits / temperature
            confidences = 1 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)
        class_ids = logits.argmax(axis=1).astype(np.int32)
        computed = np.isfinite(confidences)
        if not computed.all():
            class_ids[~computed] = -1
        return cls(class_ids, confidences, logits, scores)

    @classmethod
    def join(cls, first: Outputs, second: Outputs) -> Outputs:
        """Concatenate two batches."""
        class_ids, confidences, logits, scores = zip(first, second, strict=True)
        return cls(
            np.concatenate(class_ids), np.concatenate(confidences), np.concatenate(logits), np.concatenate(scores)
        )


def _classify(logits: list[float], temperature: float) -> tuple[int, float]:
    """Return the class of one input, -1 if its logits are not finite, and the calibrated probability of that class."""
    highest = max(logits)
    confidence = 1 / sum([math.exp((logit - highest) / temperature) for logit in logits])
    return logits.index(highest) if math.isfinite(confidence) else -1, confidence


class Pending(Protocol):
    """A batch that was started. A device may compute it on its own, while its owner does something else."""

    def ready(self) -> bool:
        """Return whether `outputs` would return at once."""
        ...

    def outputs(self) -> Outputs:
        """Wait for the outputs; to be called once.

        Raises:
            RuntimeError: the model cannot compute these inputs.
            DeviceFailedError: it cannot compute any more.
        """
        ...
