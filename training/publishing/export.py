"""Export of a network as an artifact: TorchScript bytes with the preprocessing inside, checked against the network.

The only module of training that makes TorchScript. It is run by `service.model.torchscript`, so that a check of an
artifact holds for the code that will serve it.
"""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from service.contract.variants import FormName
from service.model import torchscript
from training.errors import TrainingError
from training.networks.logits import class_logits
from training.networks.preprocessing import Preprocessing
from training.publishing.evaluate import logits_of

LOGIT_TOLERANCE = 1e-3
"""Largest absolute difference of a logit between the network and its artifact, or the artifact elsewhere."""

BATCH_SIZES = (1, 7, 256)
"""What the service sends: one request alone, a few together, a full batch."""


class Exported(nn.Module):
    """The published module: uint8 [N, C, H, W] or float32 [N, F] in, float32 [N, K] logits out, K at least 2."""

    def __init__(self, preprocessing: Preprocessing, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = class_logits(self.network(self.preprocessing(inputs)).float())
        return logits


def export(model: Exported) -> bytes:
    """Script and freeze a copy of `model`, on the CPU and in evaluation mode; `model` itself stays as it was."""
    with torchscript.without_deprecations(), torch.no_grad():
        scripted = torch.jit.script(copy.deepcopy(model).cpu().eval())
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.freeze(scripted), buffer)
    return _without_sources(buffer.getvalue())


class On(nn.Module):
    """`compute` on `device`, for inputs on any device; its outputs are on the device of the inputs."""

    def __init__(self, compute: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.compute = compute
        self.device = device

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.compute(inputs.to(self.device))
        return outputs.float().to(inputs.device)


def load(artifact: bytes, device: torch.device, form: FormName | Literal["published"] = "published") -> nn.Module:
    """Load the classifier in `artifact` on `device`, as the service will compute it; inputs may be elsewhere."""
    return On(torchscript.load(artifact, device, form), device)


def check(model: nn.Module, artifact: nn.Module, inputs: Tensor) -> None:
    """Compare network and loaded artifact on all `inputs`, in batches of 1, 7 and 256.

    Raises:
        TrainingError: a class differs for any input, or a logit by more than LOGIT_TOLERANCE.
    """
    expected = logits_of(model, inputs)
    for batch_size in BATCH_SIZES:
        given = logits_of(artifact, inputs, batch_size=batch_size)
        difference = (given - expected).abs().max().item()
        differing = int((given.argmax(1) != expected.argmax(1)).sum())
        if differing or not difference <= LOGIT_TOLERANCE:  # "not <=" refuses NaN too
            raise TrainingError(
                f"the exported model must give the network's classes and its logits to within {LOGIT_TOLERANCE:g}. "
                f"Given: {differing} of {len(inputs):,} classes differ and logits by up to {difference:.2g}, in "
                f"batches of {batch_size}. Nothing was published."
            )


def _without_sources(artifact: bytes) -> bytes:
    """Remove the artifact's debug records, which name every source file with its path on this machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(artifact)) as whole, zipfile.ZipFile(buffer, "w") as rest:
        for record in whole.infolist():
            if not record.filename.endswith(".debug_pkl"):
                rest.writestr(record, whole.read(record))
    return buffer.getvalue()
