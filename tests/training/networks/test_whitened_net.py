from __future__ import annotations

import pytest
import torch

from training.networks.whitened_net import WhitenedNet


def test_the_whitened_patches_have_no_correlation_and_variance_one() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(200, 3, 8, 8), size=(16, 16), mode="bilinear")
    images[:, 1] = images[:, 0] + 0.5 * images[:, 1]  # channels that are alike, as in photographs
    network = WhitenedNet()

    network.whiten_from(images)

    responses = network.whiten(images)[:, :12].transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 0.02
    assert covariance.diag()[:6].tolist() == pytest.approx([1] * 6, abs=0.05)
    assert torch.equal(network.whiten.weight[12:], -network.whiten.weight[:12])
    assert not network.whiten.weight.requires_grad
