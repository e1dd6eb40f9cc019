"""Other forms of an artifact may serve only on evidence from the whole test split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import FormEvidence
from training.data.dataset import Dataset
from training.networks.preprocessing import Preprocessing
from training.publishing import equivalence as module
from training.publishing.abstention import Abstention
from training.publishing.equivalence import equivalence, suffices
from training.publishing.export import Exported, export

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Logits: the mean of what arrives, and its square."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([mean, mean * mean], dim=1)


class TwoFaced(nn.Module):
    """Gives the last image another class where images lie in memory as channels last."""

    def forward(self, images: Tensor) -> Tensor:
        last = float(images.is_contiguous(memory_format=torch.channels_last)) * images[:, 0, 0, 0]
        return torch.stack([1 - last, last], dim=1)


class Laggard(nn.Module):
    """Computes as before, but slowly where images lie in memory as channels last."""

    def forward(self, images: Tensor) -> Tensor:
        x = torch.ones(400, 400)
        if images.is_contiguous(memory_format=torch.channels_last):
            for _ in range(800):  # half a second; a matrix product would be slower still in half precision
                x = x.sin()
        mean = images.flatten(1).mean(1) + x[0, 0] * 0
        return torch.stack([mean, 1 - mean], dim=1)


class Narrow(nn.Module):
    """Gives the class 1 to a pixel above 0.5, by so little that half precision gives some of them the class 0."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.compare = nn.Linear(2, 2, bias=False)
        self.compare.weight.data = torch.tensor([[1.0, 0.0], [1.0, margin]])

    def forward(self, images: Tensor) -> Tensor:
        above = images[:, 0, 0, :1]
        logits: Tensor = self.compare(torch.cat([torch.ones_like(above), above - 0.5], dim=1))
        return logits


class Overflowing(nn.Module):
    """Gives logits of 100,000, which float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 2)
        self.scale.weight.data.fill_(100.0)
        self.scale.bias.data = torch.tensor([0.0, 50.0])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale(torch.full_like(images[:, 0, 0, :1], 1000.0))
        return logits


def dataset(images: Tensor, labels: Tensor | None = None) -> Dataset:
    found = labels if labels is not None else torch.zeros(len(images), dtype=torch.long)
    return Dataset("photos", "test", images, found, ("a", "b"))


def pictures(n: int) -> Tensor:
    images = torch.zeros(n, 3, 8, 8, dtype=torch.uint8)
    images[-1] = 255
    return images


def pixels(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)


def of(network: nn.Module, test: Dataset) -> module.Equivalence:
    return equivalence(Abstention(export(Exported(Preprocessing(), network))), CPU, test)


def test_forms_agree_that_give_every_input_its_published_class() -> None:
    assert set(of(Brightness(), dataset(pictures(600))).forms) >= {"channels_last", "prepacked", "float16"}


def test_in_full_precision_one_input_with_another_class_is_too_many() -> None:
    images = pictures(1200)

    assert "channels_last" in of(TwoFaced(), dataset(images[:-1])).forms
    assert "channels_last" not in of(TwoFaced(), dataset(images)).forms


def test_a_slow_form_is_given_up_unless_it_is_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTING_UP_SECONDS", 0.0)

    found = of(Laggard(), dataset(pictures(600)))

    assert "channels_last" not in found.forms
    assert "float16" in found.forms


def test_evidence_counts_the_classes_that_half_precision_changes() -> None:
    values = [0] * 10 + [128] * 3 + [255] * 7  # 128 is 0.502, and 1 + 0.002 * margin rounds to 1
    labels = torch.tensor([0] * 12 + [1] * 8)

    found = of(Narrow(0.1), dataset(pixels(values), labels))

    (evidence,) = (each for each in found.half_precision if each.form == "float16")
    # Of the three that change to class 0 two had another label than class 1, so one more is right.
    assert evidence == FormEvidence(
        form="float16", agreement=17 / 20, accuracy_difference=1 / 20, data="photos/test", n=20
    )
    assert "float16" not in found.forms


def test_logits_that_overflow_agree_with_nothing() -> None:
    found = of(Overflowing(), dataset(pictures(8)))

    agreement = {each.form: each.agreement for each in found.half_precision}
    assert agreement["float16"] == 0
    assert "float16" not in found.forms


@pytest.mark.parametrize(
    ("agreed", "lost", "expected"),
    [(9990, 5, True), (9989, 0, False), (9990, 6, False), (10000, 0, True), (9995, -5, True)],
    ids=["just enough", "too few agree", "too much is lost", "all agree", "more are right"],
)
def test_half_precision_needs_agreement_and_accuracy(agreed: int, lost: int, expected: bool) -> None:
    evidence = FormEvidence(
        form="float16", agreement=agreed / 10_000, accuracy_difference=-lost / 10_000, data="mnist/test", n=10_000
    )

    assert suffices(evidence) is expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_cpu_rounds_as_gpus_do(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(16, 32, 3, bias=False), torch.randn(8, 16, 12, 12)
    rounded_inputs, rounded_weight = (tensor.to(dtype).double() for tensor in (inputs, layer.weight.detach()))

    with torch.no_grad(), torch.autocast("cpu", dtype):
        found = layer(inputs)
    exact = nn.functional.conv2d(rounded_inputs, rounded_weight).to(dtype)
    unrounded = nn.functional.conv2d(inputs, layer.weight).detach().to(dtype)

    assert (found == exact).double().mean() > 0.99
    assert (unrounded == exact).double().mean() < 0.9
