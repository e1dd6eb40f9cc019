from __future__ import annotations

import math

import pytest
import torch

from service.engine.served_models import OutlierScale
from training.publishing.outliers import Features, OutlierScore, auroc, evidence, fit, thresholds


def features(n: int, *, spread: float = 1.0, seed: int = 0) -> Features:
    """Three correlated channels and logits of one size."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, 3, generator=generator) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0.5], [0, 0, 2]]) * spread
    deviation = 1 + 0.1 * torch.rand(n, 3, generator=generator)
    logits = torch.randn(n, 4, generator=generator)
    return Features(logits, mean, deviation.square() + mean.square())


def scores(score: OutlierScore, of: Features) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = score(of.logits, of.mean, of.square)
        return found


def test_what_lies_far_from_the_training_data_scores_higher() -> None:
    score = fit(features(2000), features(500, seed=1))

    own, far = scores(score, features(500, seed=2)), scores(score, features(500, spread=4.0, seed=3))

    assert auroc(far, own) > 0.9
    assert auroc(scores(score, features(500, seed=4)), own) == pytest.approx(0.5, abs=0.05)


def test_both_terms_weigh_as_much_on_held_out_data() -> None:
    held_out = features(500, seed=1)
    score = fit(features(2000), held_out)
    energy = -score.energy_weight * held_out.logits.logsumexp(1)

    distance = scores(score, held_out) - energy

    assert distance.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert energy.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_a_network_without_feature_maps_is_scored_by_its_energy() -> None:
    none = torch.empty(50, 0)
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    seen = Features(logits, none, none)

    found = scores(fit(seen, seen), seen)

    assert torch.equal(found.argsort(), (-logits.logsumexp(1)).argsort())


def test_two_in_a_hundred_held_out_inputs_lie_above_the_threshold() -> None:
    held_out = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float()

    found = thresholds(held_out, data="digits/held-out", knows_blank=False)

    assert (held_out > found.threshold).sum().item() == 20
    scale = OutlierScale(found)
    assert scale.percentile(found.threshold) < 98 <= scale.percentile(found.threshold + 1)
    assert scale.percentile(-1.0) == 0
    assert scale.percentile(1e9) == scale.percentile(math.nan) == scale.percentile(math.inf) == 100


def test_a_tie_counts_half_and_a_score_without_a_number_is_foreign() -> None:
    own = torch.tensor([0.0, 1.0, 2.0, 3.0])

    assert auroc(torch.tensor([1.0]), own) == 0.375
    found = evidence("noise", torch.tensor([math.nan, 4.0, 2.5, 2.5]), own, threshold=3.0, data="digits/test")
    assert (found.auroc, found.fpr95, found.flagged) == (0.875, 0.25, 0.5)
