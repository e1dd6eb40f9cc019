"""Prediction sets by split conformal prediction: which probability a class must have to be in the set.

Knows nothing about networks: probabilities and labels of held-out examples come in.
"""

from __future__ import annotations

import math

from torch import Tensor

from service.contract.manifest import COVERAGE_STEPS, LEAST_COVERAGE, PredictionSets


def floors(probabilities: Tensor, labels: Tensor, *, data: str, ways: int = 1) -> PredictionSets:
    """Return the floors for float [N, K] calibrated probabilities of held-out examples and their int64 [N] labels.

    A new example's truth has a probability below the k-th smallest of N with chance k / (N + 1). Coverages that N is
    too small for have a floor of 0: their sets hold every class. The examples may come in several `ways`, one after
    the other, as they are and as JPEGs, say: the lowest floor covers each of them.
    """
    n = len(labels) // ways
    of_truth = probabilities.double().gather(1, labels.unsqueeze(1)).view(ways, n).sort().values
    found = []
    for step in range(COVERAGE_STEPS):
        coverage = LEAST_COVERAGE + step / (2 * COVERAGE_STEPS)
        rank = math.floor(round((n + 1) * (1 - coverage), 6))
        found.append(_rounded_down(of_truth[:, rank - 1].min().item()) if rank else 0.0)
    return PredictionSets(floors=tuple(found), data=data, n=n)


def coverage(probabilities: Tensor, labels: Tensor, floor: float) -> tuple[float, float]:
    """Return how often the set holds the truth, and how many classes it holds on average."""
    chosen = probabilities >= floor
    return chosen.gather(1, labels.unsqueeze(1)).double().mean().item(), chosen.sum(1).double().mean().item()


def _rounded_down(value: float) -> float:
    """Return `value` to seven decimals: what lies on the floor stays in the set."""
    return math.floor(value * 1e7) / 1e7


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return float64 [N, K] calibrated probabilities."""
    return (logits.double() / temperature).softmax(1)
