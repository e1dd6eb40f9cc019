"""The distributions of class, confidence and outlier score over held-out inputs, and how far ordinary ones may stray.

A service that compares its own predictions with them can tell when its inputs are no longer such. Knows nothing about
networks: logits and scores of held-out examples come in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from service.contract.manifest import MOST_BINS, Distribution, Distributions
from service.model.distributions import bins_of_classes, bins_of_values, distance
from training.publishing.prediction_sets import probabilities

WINDOW = 400
"""Inputs that a service compares together: so that 500 strange ones in a row are more than enough."""

FALSE_ALARMS = 1 / 5000
"""The share of ordinary windows in which one distribution strays beyond its limit; of three, less than one in 1,000."""

_COPIES = 2
"""Recipes add an altered copy of each held-out example, which tells little new: half as many may be distinct."""

_DRAWS = 30_000  # so that six lie beyond a limit
_LEVELS = (0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98)
_MOST_CERTAIN = 0.9999
"""The highest edge between confidences: above it rounding decides, which another device or form does differently."""


def distributions(logits: Tensor, scores: Tensor | None, *, temperature: float, data: str) -> Distributions:
    """Count float32 [N, K] logits of held-out inputs and their [N] scores, and find the limits."""
    found = probabilities(logits.cpu(), temperature)
    confidences = found.amax(1).float().numpy()
    edges = np.minimum(_edges(confidences), _MOST_CERTAIN)
    return Distributions(
        window=WINDOW,
        classes=_of_classes(found.argmax(1).numpy(), logits.shape[1]),
        confidences=_of_values(confidences, edges),
        scores=None if scores is None else _of_values(scores.cpu().numpy(), _edges(scores.cpu().numpy())),
        data=data,
        n=len(logits),
    )


def _edges(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.quantile(values.astype(np.float64), _LEVELS, method="inverted_cdf")


def _of_classes(class_ids: npt.NDArray[np.int64], classes: int) -> Distribution:
    empty = Distribution(counts=(1,) * min(classes, MOST_BINS), limit=1)
    return _with_limit((), bins_of_classes(class_ids, empty), len(empty.counts))


def _of_values(values: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]) -> Distribution:
    rounded = tuple(sorted({float(f"{edge:.7g}") for edge in edges.tolist()}))
    empty = Distribution(edges=rounded, counts=(1,) * (len(rounded) + 1), limit=1)
    return _with_limit(rounded, bins_of_values(values, empty), len(empty.counts))


def _with_limit(edges: tuple[float, ...], bins: npt.NDArray[np.intp], size: int) -> Distribution:
    counts = np.bincount(bins, minlength=size)
    return Distribution(edges=edges, counts=tuple(counts.tolist()), limit=_limit(counts))


def _limit(counts: npt.NDArray[np.intp]) -> float:
    """Return the distance that FALSE_ALARMS of all windows exceed, if they and `counts` are of one distribution.

    Drawn rather than looked up: in bins of few inputs chi-squared is too small for what happens once in thousands.
    """
    chance = np.random.default_rng(0)
    shares = (counts + 0.5) / (counts + 0.5).sum()  # a class that was not seen may be seen yet
    windows = chance.multinomial(WINDOW, shares, _DRAWS)
    distinct = -(-int(counts.sum()) // _COPIES)
    references = chance.multinomial(distinct, shares, _DRAWS) * (counts.sum() / distinct)
    return float(f"{np.quantile(distance(windows, references), 1 - FALSE_ALARMS, method='higher'):.4g}")
