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
DRAWS = 1_000
"""Sets of labels that the bound of an ECE is taken from."""
COLDEST, HOTTEST = 0.1, 10.0
"""Bounds of the search for the temperature."""


@dataclass(frozen=True)
class Calibration:
    """The quality of the probabilities softmax(logits / temperature) on some examples."""

    temperature: float
    nll: float  # mean of -log(probability of the label)
    brier: float  # mean squared distance between the probabilities and the label's one-hot row, 0 to 2
    ece: float  # mean distance between confidence and accuracy over 15 bins of confidence
    ece_bound: float  # what it stays below in 95 of 100 draws if the probabilities are right


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
        ece_bound=calibration_error_by_chance(confidences),
    )


def expected_calibration_error(confidences: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Return the sum over equal bins (a, b] of confidence of share of examples * |accuracy - mean confidence|."""
    bin_of = _bins(confidences, bins)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidences.device)
    gaps.index_add_(0, bin_of, correct.double() - confidences.double())
    return gaps.abs().sum().item() / len(confidences)


def calibration_error_by_chance(confidences: Tensor, *, share: float = 0.95, bins: int = BINS) -> float:
    """Return the ECE that perfect calibration stays below in this `share` of draws, as few examples scatter.

    Labels are drawn from the model's own probabilities, so that float [N] `confidences` are right: a parametric
    bootstrap, as in Vaicenavicius et al., "Evaluating model calibration in classification", AISTATS 2019
    (https://arxiv.org/abs/1902.06977). A larger ECE is not chance.
    """
    confidences = confidences.double().cpu()
    members = one_hot(_bins(confidences, bins), bins).double()
    expected = confidences @ members
    generator = torch.Generator().manual_seed(0)
    rows = max(1, _AT_ONCE // len(confidences))  # draws
    errors = [
        ((torch.rand(rows, len(confidences), generator=generator) < confidences).double() @ members - expected)
        .abs()
        .sum(1)
        for _ in range(-(-DRAWS // rows))
    ]
    rank = math.ceil(share * DRAWS)
    return torch.cat(errors)[:DRAWS].sort().values[rank - 1].item() / len(confidences)


_AT_ONCE = 1_000_000


def _bins(confidences: Tensor, bins: int) -> Tensor:
    """Return the bin of each confidence, int64 [N], of equal bins (a, b]."""
    return (confidences * bins).ceil().long().clamp(1, bins) - 1


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
