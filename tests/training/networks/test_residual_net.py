from __future__ import annotations

import torch

from training.networks.residual_net import Block, ResidualNet


def test_a_block_whose_last_convolution_is_zero_passes_its_input_on() -> None:
    block = Block(8, 8).eval()
    block.second.weight.data.zero_()
    images = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))

    assert torch.equal(block(images), images)
    assert Block(8, 12, stride=2)(images).shape == (2, 12, 3, 3)


def test_its_weights_take_less_than_twelve_megabytes() -> None:
    assert 4 * sum(weight.numel() for weight in ResidualNet().parameters()) < 12_000_000
