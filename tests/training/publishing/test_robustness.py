from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.data.corruptions import corrupted
from training.data.dataset import Dataset
from training.publishing import robustness as module
from training.publishing.robustness import Robustness, robustness


class KnowsByHeart(nn.Module):
    """A classifier that is right about images that it has seen as they are, and says 0 of all others."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.seen = dict(zip((image.numpy().tobytes() for image in data.inputs), data.labels.tolist(), strict=True))

    def forward(self, images: Tensor) -> Tensor:
        known = [self.seen.get(image.numpy().tobytes(), 0) for image in images]
        return torch.nn.functional.one_hot(torch.tensor(known), 10).float()


def test_every_kind_and_severity_is_measured_on_its_own_copies(
    digits_test: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGES", 50)
    shown: list[Tensor] = []
    by_heart = KnowsByHeart(digits_test)

    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            shown.append(images)
            logits: Tensor = by_heart(images)
            return logits

    found = robustness(Watched(), digits_test)

    assert found is not None
    assert (found.data, found.n) == ("digits/test", 46)  # every eighth of 364
    assert len(found.accuracies) == 16
    zeros = (digits_test.labels[::8] == 0).double().mean().item()
    assert found.accuracies["gaussian noise"] == pytest.approx((zeros,) * 5)  # none as it was, so all are called 0
    assert len(shown) == 80
    assert torch.equal(shown[0], corrupted(digits_test.inputs[::8], "gaussian noise", 1))


def test_the_mean_and_the_worst_kind_become_metrics() -> None:
    measured = Robustness("points/test", 7, {"fog": (0.5, 0.3), "snow": (0.9, 0.7)})

    assert measured.mean == pytest.approx(0.6)
    assert measured.worst == "fog"
    assert [(m.name, round(m.value, 6), m.data, m.n) for m in measured.metrics] == [
        ("corrupted_accuracy", 0.6, "points/test", 7),
        ("corrupted_accuracy_worst", 0.4, "points/test", 7),
    ]


def test_features_and_large_photographs_have_no_corrupted_copies(digits_test: Dataset) -> None:
    points = Dataset("points", "test", torch.zeros(3, 2), torch.arange(3), tuple("abc"))
    large = replace(digits_test, inputs=torch.zeros(364, 1, 96, 96, dtype=torch.uint8))

    assert robustness(nn.Identity(), points) is None
    assert robustness(nn.Identity(), large) is None
