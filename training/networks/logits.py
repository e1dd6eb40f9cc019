"""One logit for each class, whatever a network returns."""

from __future__ import annotations

import torch
from torch import Tensor


def class_logits(logits: Tensor) -> Tensor:  # float32 [N, 1] or [N, K] -> float32 [N, K], K at least 2
    """Return one logit for each class; one raw logit z becomes [0, z], whose softmax is the sigmoid of z."""
    if logits.shape[1] == 1:
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits
