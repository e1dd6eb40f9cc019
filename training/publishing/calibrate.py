"""Calibration: measure how reliable probabilities are, and fit the temperature that corrects them.

Temperature scaling and the expected calibration error are those of Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017 (https://arxiv.org/abs/1706.04599). Knows nothing about networks: logits and labels come in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
"""Bounds of the search for the temperature."""


@dataclass(frozen=True)
class Calibration:
    """The quality of the probabilities softmax(logits / temperature) on some examples."""

    temperature: float
    nll: float  # mean of -log(probability of the label)
    brier: float  # mean squared distance between the probabilities and the label's one-hot row, 0 to 2
    ece: float  # mean distance between confidence and accuracy over 15 bins of confidence


def calibration(logits: Tensor, labels: Tensor, *, temperature: float) -> Calibration:
    """Measure float32 [N, K] logits against int64 [N] labels."""
    scaled = logits.double() / temperature
    probabilities = scaled.softmax(1)
    confidences, predicted = probabilities.max(1)
    return Calibration(
        temperature=temperature,
        nll=cross_entropy(scaled, labels).item(),
        brier=(probabilities - one_hot(labels, logits.shape[1])).square().sum(1).mean().item(),
        ece=expected_calibration_error(confidences, predicted == labels),
    )


def expected_calibration_error(confidences: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Return the sum over equal bins (a, b] of confidence of share of examples * |accuracy - mean confidence|."""
    bin_of = (confidences * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidences.device)
    gaps.index_add_(0, bin_of, correct.double() - confidences.double())
    return gaps.abs().sum().item() / len(confidences)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that makes `labels` most probable, to four digits.

    Each of the N labels counts for 1 - 1/(N + 2), and the rest for all classes alike, as in Platt, "Probabilistic
    outputs for support vector machines", 1999: twenty examples without a mistake do not make a classifier certain.

    The negative log likelihood is convex in 1 / temperature, so that halving the interval in which its slope changes
    sign finds the minimum, on every machine the same one.
    """
    logits = logits.double()
    doubt = 1 / (len(labels) + 2)
    target = (1 - doubt) * logits.gather(1, labels.unsqueeze(1)).mean() + doubt * logits.mean()

    def too_cold(temperature: float) -> bool:
        expected = ((logits / temperature).softmax(1) * logits).sum(1).mean()
        return bool(expected > target)

    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(math.exp(middle)) else (low, middle)
    return float(f"{math.exp(high):.4g}")
