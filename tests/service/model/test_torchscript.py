"""TorchScript's door lets in modules that compute logits, and says what else it was given."""

from __future__ import annotations

import io
import random
import warnings

import pytest
import torch
from torch import Tensor, nn

from service.contract.variants import FORM_NAMES, HALF, FormName
from service.model import torchscript
from service.model.torchscript import TorchScriptError
from tests.registries import BrightestRow, artifact_of

CPU = torch.device("cpu")
IMAGES = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)


class Convolutions(nn.Module):
    """A network that every form computes in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images.float() / 255)
        return logits


class Layout(nn.Module):
    """A logit that says whether the inputs lay in memory as channels last."""

    def forward(self, images: Tensor) -> Tensor:
        last = float(images.is_contiguous(memory_format=torch.channels_last))
        return images[:, 0, 0, :2].float() * 0 + last


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        dropped: Tensor = self.drop(images.flatten(1).float() + 1)
        return dropped


class OneNumber(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().sum()


class OneRow(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)[:1]


class Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def saved_in_training_mode(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with torchscript.without_deprecations():
        torch.jit.save(torch.jit.script(module.train()), buffer)
    return buffer.getvalue()


def frozen(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with torchscript.without_deprecations():
        torch.jit.save(torch.jit.freeze(torch.jit.script(module.eval())), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning], ids=["torch 2.11", "torch 2.14"])
def test_that_torchscript_is_deprecated_is_silenced_and_nothing_else_is(category: type[Warning]) -> None:
    with torchscript.without_deprecations():
        warnings.warn("`torch.jit.script` is deprecated. Please switch to `torch.compile`.", category, stacklevel=1)
        with pytest.warns(category, match="something else"):
            warnings.warn("something else is deprecated", category, stacklevel=1)
        with pytest.warns(UserWarning, match="slow"):
            warnings.warn("torch.jit.script is slow", UserWarning, stacklevel=1)


def state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), buffer)
    return buffer.getvalue()


def test_a_module_saved_in_training_mode_is_loaded_in_evaluation_mode() -> None:
    network = torchscript.load(saved_in_training_mode(Dropping()), CPU)

    logits = network(IMAGES)

    assert torch.equal(logits, torch.ones(3, 784))


def test_a_module_that_is_already_frozen_is_taken() -> None:
    network = torchscript.load(frozen(BrightestRow()), CPU)

    assert network(IMAGES).shape == (3, 10)


@pytest.mark.parametrize("form", FORM_NAMES)
def test_every_form_gives_the_published_logits_to_within_its_precision(form: FormName) -> None:
    artifact = artifact_of(Convolutions())
    images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        published, other = (torchscript.load(artifact, CPU, name)(images).float() for name in ("published", form))

    assert torch.allclose(published, other, atol=0.02 if form in HALF else 1e-5)


def test_float32_is_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    torchscript.load(artifact_of(Convolutions()), CPU)

    assert not torch.backends.cudnn.allow_tf32


def test_half_precision_computes_in_half_precision() -> None:
    artifact = artifact_of(Convolutions())
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)

    with torch.inference_mode():
        kinds = [torchscript.load(artifact, CPU, form)(images).dtype for form in ("published", "bfloat16", "float16")]

    assert kinds == [torch.float32, torch.bfloat16, torch.float16]


def test_channels_last_is_how_the_inputs_lie_in_memory() -> None:
    artifact = artifact_of(Layout())
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)

    seen = [torchscript.load(artifact, CPU, form)(images)[0, 0].item() for form in ("published", "channels_last")]

    assert seen == [0, 1]


@pytest.mark.parametrize(
    "data",
    [b"", b"no module", state_dict(), artifact_of(BrightestRow())[:-1], artifact_of(BrightestRow())[:2000]],
    ids=["nothing", "text", "a state dict", "all but a byte", "a part"],
)
def test_bytes_that_are_no_module_are_refused(data: bytes) -> None:
    with pytest.raises(TorchScriptError, match=r"must be a TorchScript module\. Given: "):
        torchscript.load(data, CPU)


def test_a_damaged_module_loads_or_is_refused_and_raises_nothing_else() -> None:
    chance = random.Random(0)
    whole = artifact_of(BrightestRow())
    refused = 0

    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            torchscript.load(bytes(damaged), CPU)
        except TorchScriptError:
            refused += 1

    assert refused > 100


@pytest.mark.parametrize(
    ("module", "given"),
    [(OneNumber(), r"\[\]"), (OneRow(), r"\[1, 784\]"), (Pair(), r"\[3, 1, 28, 28\]")],
    ids=["a number", "fewer rows than inputs", "a tuple"],
)
def test_a_module_that_returns_no_logits_is_refused(module: nn.Module, given: str) -> None:
    network = torchscript.load(artifact_of(module), CPU)

    with pytest.raises(TorchScriptError, match=rf"must return logits \[3, K\]\. Given: {given}"):
        network(IMAGES)
