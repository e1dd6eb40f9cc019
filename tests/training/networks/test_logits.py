from __future__ import annotations

import torch

from training.networks.logits import class_logits


def test_one_raw_logit_means_the_second_of_two_classes_and_more_are_left_alone() -> None:
    one, three = torch.tensor([[2.0], [-1.0]]), torch.ones(2, 3)

    assert class_logits(one).tolist() == [[0.0, 2.0], [0.0, -1.0]]
    assert torch.equal(class_logits(three), three)
