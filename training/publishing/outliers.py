"""Outlier scores: how little an input resembles the training data, from what the network itself makes of it.

A score is the energy of the logits (Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020,
https://arxiv.org/abs/2010.03759) plus, for the feature map of a layer in the middle, the squared distance of its
channels' means and deviations from a Gaussian of the training data (Lee et al., "A simple unified framework for
detecting out-of-distribution samples", NeurIPS 2018, https://arxiv.org/abs/1807.03888). Both are divided by their
deviations on held-out data, so that neither is weighted by hand. Knows nothing about TorchScript: logits and moments
come in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.contract.manifest import ForeignEvidence, OutlierScores

ABSTAIN_SHARE = 0.02
"""The share of held-out inputs that count as outliers."""

LEAST_HELD_OUT = 50
"""Fewer held-out inputs say nothing about the strangest in fifty."""

QUANTILES = 200
_RIDGE = 1e-3  # of each variance: what hardly varies must not decide


@dataclass(frozen=True)
class Features:
    """A network's logits for some inputs, and the first two moments of a feature map's channels."""

    logits: Tensor  # float32 [N, K]
    mean: Tensor  # float32 [N, C]; C is 0 in a network without convolutions
    square: Tensor  # float32 [N, C], the mean of the squares


class OutlierScore(nn.Module):
    """The score as a module that can be scripted; it gives float32 [N]."""

    # TorchScript reads these as types: with `from __future__ import annotations` it would find text.
    centre: Tensor
    whitening: Tensor

    def __init__(self, centre: Tensor, whitening: Tensor, energy_weight: float) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("whitening", whitening)
        self.energy_weight = energy_weight
        self.has_distance = len(centre) > 0

    def forward(self, logits: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        # logsumexp, of any class: torch computes log_softmax in one pass, 10 us for 16 x 10 logits; logsumexp takes 35.
        negative_energy = (logits - logits.log_softmax(1)).select(1, 0)
        if not self.has_distance:
            return -self.energy_weight * negative_energy
        # The centre is taken off first: half precision would lose a small difference of large products.
        whitened = (_moments(mean, square) - self.centre) @ self.whitening
        distance = whitened.float().square().sum(1)  # of float32, which half precision could not hold
        return torch.sub(distance, negative_energy, alpha=self.energy_weight)


def _moments(mean: Tensor, square: Tensor) -> Tensor:
    """Return means and standard deviations, [N, 2 C]."""
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)


def fit(train: Features, held_out: Features) -> OutlierScore:
    """Fit the Gaussian on training data, and weigh the distance and the energy on held-out data."""
    energy_weight = 1 / _deviation(held_out.logits.double().logsumexp(1)).item()
    if not train.mean.shape[1]:
        return OutlierScore(torch.empty(0), torch.empty(0, 0), energy_weight)
    fitted = _moments(train.mean.double(), train.square.double())
    other = _moments(held_out.mean.double(), held_out.square.double())
    centre, whitening = fitted.mean(0), _whitening(fitted)
    distance = ((other - centre) @ whitening).square().sum(1)
    return OutlierScore(centre.float(), (whitening / _deviation(distance).sqrt()).float(), energy_weight)


def _whitening(values: Tensor) -> Tensor:
    """Return the matrix that makes float64 [N, D] values uncorrelated, each of deviation 1."""
    deviation = values.std(0, correction=0).clamp_min(1e-6)
    scaled = (values - values.mean(0)) / deviation
    correlation = scaled.T @ scaled / len(values) + _RIDGE * torch.eye(values.shape[1], dtype=torch.float64)
    whitening: Tensor = torch.linalg.inv(torch.linalg.cholesky(correlation)).T / deviation.unsqueeze(1)
    return whitening


def thresholds(scores: Tensor, *, data: str, knows_blank: bool) -> OutlierScores:
    """Return the threshold and the quantiles of held-out inputs' scores, float32 [N]."""
    ascending = scores.double().sort().values
    ranks = [math.ceil(len(scores) * (i + 1) / QUANTILES) - 1 for i in range(QUANTILES)]
    quantiles = [float(f"{ascending[rank].item():.7g}") for rank in ranks]
    return OutlierScores(
        threshold=quantiles[round(QUANTILES * (1 - ABSTAIN_SHARE)) - 1],
        quantiles=tuple(quantiles),
        knows_blank=knows_blank,
        data=data,
        n=len(scores),
    )


def evidence(kind: str, foreign: Tensor, own: Tensor, *, threshold: float, data: str) -> ForeignEvidence:
    """Measure how well scores of a foreign kind, [M], are told from those of the split `data`, [N]."""
    foreign, own = foreign.nan_to_num(nan=math.inf), own.nan_to_num(nan=math.inf)
    return ForeignEvidence(
        kind=kind,
        auroc=auroc(foreign, own),
        fpr95=(own >= foreign.sort().values[len(foreign) - math.ceil(0.95 * len(foreign))]).double().mean().item(),
        flagged=(foreign > threshold).double().mean().item(),
        data=data,
        n=len(foreign),
    )


def auroc(foreign: Tensor, own: Tensor) -> float:
    """Return how often a foreign score, [M], is higher than one of `own`, [N]; a tie counts half."""
    ascending = own.double().sort().values
    below = torch.searchsorted(ascending, foreign.double())
    upto = torch.searchsorted(ascending, foreign.double(), right=True)
    return ((below + upto).double().mean() / (2 * len(own))).item()


def join(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several batches."""
    return Features(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.mean for part in parts]),
        torch.cat([part.square for part in parts]),
    )


def _deviation(values: Tensor) -> Tensor:
    return values.std(correction=0).clamp(min=1e-9)
