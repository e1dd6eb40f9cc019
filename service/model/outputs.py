"""The outputs of a model for a batch, and batches whose outputs are still to come. Knows nothing about devices."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

_NO_SCORES = np.empty(0, np.float32)


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
        with np.errstate(invalid="ignore"):  # logits that are not finite
            scaled = logits / temperature
            confidences = 1 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)
        class_ids = scaled.argmax(axis=1).astype(np.int32)
        computed = np.isfinite(confidences)
        if not computed.all():
            class_ids[~computed] = -1
        return cls(class_ids, confidences, logits, _NO_SCORES if scores is None else scores)

    @classmethod
    def join(cls, first: Outputs, second: Outputs) -> Outputs:
        """Concatenate two batches."""
        class_ids, confidences, logits, scores = zip(first, second, strict=True)
        return cls(
            np.concatenate(class_ids), np.concatenate(confidences), np.concatenate(logits), np.concatenate(scores)
        )


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
