from __future__ import annotations

import torch

from training.networks.digit_net import DigitNet


def test_five_convolutions_of_the_given_widths_each_have_a_batch_norm_behind_them() -> None:
    network = DigitNet(3, 7, (4, 8, 16))

    shapes = [tuple(weight.shape) for weight in network.parameters() if weight.dim() > 1]
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]

    assert shapes == [(4, 3, 5, 5), (4, 4, 3, 3), (8, 4, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (7, 16)]
    assert [norm.num_features for norm in norms] == [4, 4, 8, 8, 16]
