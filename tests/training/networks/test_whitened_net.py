from __future__ import annotations

import pytest
import torch

from training.networks.whitened_net import WhitenedNet


def test_the_whitened_patches_have_no_correlation_and_variance_one_unless_they_hardly_vary() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(200, 3, 8, 8), size=(16, 16), mode="bilinear")
    images[:, 1] = images[:, 0] + 0.5 * images[:, 1]  # channels that are alike, as in photographs
    network = WhitenedNet()

    network.whiten_from(images)

    responses = network.whiten(images)[:, :12].transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 0.02
    assert covariance.diag()[:2].tolist() == pytest.approx([1] * 2, abs=0.05)
    assert covariance.diag().max() < 1.05
    assert network.whiten.weight.flatten(1).norm(dim=1).max() < 0.02**-0.5  # so that noise grows by 7 at most
    assert torch.equal(network.whiten.weight[12:], -network.whiten.weight[:12])
    assert not network.whiten.weight.requires_grad


def test_filters_that_layers_behind_them_know_are_set_again_only_in_strength() -> None:
    torch.manual_seed(0)
    images, others = torch.rand(2, 50, 3, 16, 16)
    images[:, 1] = images[:, 0] + 0.5 * images[:, 1]
    network = WhitenedNet()
    network.whiten_from(images)
    wanted = network.whiten.weight.clone()
    with torch.no_grad():
        network.whiten.weight.mul_(torch.rand(24, 1, 1, 1) + 1)
        network.whiten.bias.fill_(0.5)  # type: ignore[union-attr]

    network.whiten_from(others, again=True)
    assert not torch.allclose(network.whiten.weight, wanted)

    network.whiten_from(images, again=True)
    assert torch.allclose(network.whiten.weight, wanted)
    assert network.whiten.bias.tolist() == [0.5] * 24  # type: ignore[union-attr]
