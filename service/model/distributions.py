"""The distance of some predictions from those for held-out inputs. Knows nothing about where either come from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.manifest import Distribution

Counts = npt.NDArray[Any]


def bins_of_classes(class_ids: npt.NDArray[np.integer[Any]], found: Distribution) -> npt.NDArray[np.intp]:
    """Return the bin of each class id."""
    return np.asarray(class_ids, np.intp) % len(found.counts)


def bins_of_values(values: npt.NDArray[np.floating[Any]], found: Distribution) -> npt.NDArray[np.intp]:
    """Return the bin of each value; NaN is in the last one."""
    return _edges(found).searchsorted(values)


@lru_cache(1024)
def _edges(found: Distribution) -> npt.NDArray[np.float64]:
    return np.array(found.edges)


def distance(window: Counts, reference: Counts) -> npt.NDArray[np.float64]:
    """Return how far counts [..., bins] lie from others: chi-squared of both coming from one distribution.

    Its size does not depend on how many there are of each, unless they differ. Without any count it is 0.
    """
    n, m = window.sum(-1, keepdims=True), reference.sum(-1, keepdims=True)
    together = np.maximum(window + reference, 1)
    products = np.maximum(n * m, 1.0)
    return np.asarray(((window * m - reference * n) ** 2.0 / (together * products)).sum(-1))
