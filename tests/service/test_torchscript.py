"""TorchScript's door lets in modules that compute logits, and says what else it was given."""

from __future__ import annotations

import io
import random
import warnings

import pytest
import torch
from torch import Tensor, nn

from service import torchscript
from service.torchscript import TorchScriptError
from tests.registries import BrightestRow, artifact_of

CPU = torch.device("cpu")
IMAGES = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(images.flatten(1).float() + 1)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(module.train()), buffer)
    return buffer.getvalue()


def frozen(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.freeze(torch.jit.script(module.eval())), buffer)
    return buffer.getvalue()


def state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), buffer)
    return buffer.getvalue()


def test_a_module_saved_in_training_mode_is_loaded_in_evaluation_mode() -> None:
    module = torchscript.load(saved_in_training_mode(Dropping()), CPU)

    logits = torchscript.call(module, IMAGES)

    assert torch.equal(logits, torch.ones(3, 784))


def test_a_module_that_is_already_frozen_is_taken() -> None:
    module = torchscript.load(frozen(BrightestRow()), CPU)

    assert torchscript.call(module, IMAGES).shape == (3, 10)


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
    [(OneNumber(), r"\[\]"), (OneRow(), r"\[1, 784\]"), (Pair(), "tuple")],
    ids=["a number", "fewer rows than inputs", "a tuple"],
)
def test_a_module_that_returns_no_logits_is_refused(module: nn.Module, given: str) -> None:
    loaded = torchscript.load(artifact_of(module), CPU)

    with pytest.raises(TorchScriptError, match=rf"must return logits \[3, K\]\. Given: {given}"):
        torchscript.call(loaded, IMAGES)
