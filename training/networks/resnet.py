"""torchvision's ResNet-18 with a last layer of its own. Knows nothing about where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class ResNet(nn.Module):
    """ResNet-18 that starts from weights for other classes; grey images are given to all three channels."""

    def __init__(self, classes: int, weights: Mapping[str, Tensor]) -> None:
        from torchvision.models import resnet18  # 1.5 s

        super().__init__()
        self.body = resnet18(weights=None)
        self.body.load_state_dict(dict(weights))
        self.body.fc = nn.Linear(self.body.fc.in_features, classes)

    def forward(self, images: Tensor) -> Tensor:  # float32 [N, 1 or 3, H, W] -> float32 [N, K]
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        logits: Tensor = self.body(images)
        return logits
