"""Small registries to test with: modules of two lines, published through the real `Registry`."""

from __future__ import annotations

import base64
import datetime
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.contract.manifest import (
    Artifact,
    Distribution,
    Distributions,
    FeatureInput,
    GoldenSample,
    ImageInput,
    ModelManifest,
    OutlierScores,
    PredictionSets,
    Provenance,
)
from service.contract.registry import Registry
from service.model import torchscript

GREY = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
RGB = ImageInput(shape=(3, 32, 32), colour="rgb")
DIGITS = tuple("0123456789")


class BrightestRow(nn.Module):
    """Its class is the brightest of the first ten rows, so a test can draw any class."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, :10].float().sum(dim=2) / 255


class ScoredRows(nn.Module):
    """BrightestRow, whose outlier score is the brightness of the last pixel."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images[:, 0, :10].float().sum(dim=2) / 255, images[:, 0, -1, -1].float() / 255


SCORED: dict[str, Any] = {
    "schema_version": 2,
    "outliers": OutlierScores(
        threshold=0.98, quantiles=tuple((i + 1) / 200 for i in range(200)), data="rows/held-out", n=200
    ),
    "sets": PredictionSets(floors=(0.5,) * 450 + (0.05,) * 50, data="rows/held-out", n=200),
}
"""What the manifest of ScoredRows says beyond that of BrightestRow."""


DISTRIBUTIONS = Distributions(
    window=400,
    classes=Distribution(counts=(300,) * 10, limit=35.0),
    confidences=Distribution(edges=tuple(i / 10 for i in range(1, 10)), counts=(300,) * 10, limit=35.0),
    scores=Distribution(edges=(*(i / 10 for i in range(1, 10)), 0.98), counts=(300,) * 9 + (240, 60), limit=36.0),
    data="rows/held-out",
    n=3000,
)
"""Distributions of a model, all of whose classes, confidences and scores are as frequent."""


class FirstFeature(nn.Module):
    """Two classes: whether the first feature is positive."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack((-features[:, 0], features[:, 0]), dim=1)


class Slow(nn.Module):
    """BrightestRow after so many rounds of arithmetic, each of which takes half a millisecond or more."""

    def __init__(self, rounds: int = 400) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(self, images: Tensor) -> Tensor:
        x = torch.ones(256, 256) / 256
        for _ in range(self.rounds):
            x = x @ x
        return images[:, 0, :10].float().sum(dim=2) / 255 + x[0, 0] * 0


class Endless(nn.Module):
    """BrightestRow after a loop that does not end."""

    def forward(self, images: Tensor) -> Tensor:
        total = torch.zeros(1)
        while bool(total < 1):
            total = total * 0
        return images[:, 0, :10].float().sum(dim=2) / 255 + total


def artifact_of(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with torchscript.without_deprecations():
        torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def publish(
    root: Path | str,
    name: str = "rows",
    module: nn.Module | None = None,
    *,
    spec: ImageInput | FeatureInput = GREY,
    classes: tuple[str, ...] = DIGITS,
    artifact: bytes | None = None,
    **changes: Any,
) -> ModelManifest:
    """Publish `module` (by default BrightestRow) as the next version of `name`."""
    module = module or BrightestRow()
    inputs = torch.arange(2 * torch.tensor(spec.shape).prod().item()).remainder(251)
    inputs = inputs.to(getattr(torch, spec.dtype)).view(2, *spec.shape)
    given = module.eval()(inputs)
    scores: list[float] = []
    if isinstance(given, tuple):
        given, scores = given[0], given[1].tolist()
    logits = changes.pop("logits", None) or given.tolist()

    def describe(version: int, digest: Artifact) -> ModelManifest:
        return ModelManifest(
            name=name,
            version=version,
            created=datetime.datetime.now(datetime.UTC),
            artifact=digest,
            input=spec,
            classes=classes,
            golden=GoldenSample(
                inputs=base64.b64encode(inputs.numpy().tobytes()).decode(), logits=logits, scores=scores
            ),
            provenance=Provenance(
                recipe="test",
                hyper_parameters={},
                dataset="none",
                dataset_digest="none",
                seed=0,
                commit="unknown",
                torch_version=torch.__version__,
                device="cpu",
                seconds=0.0,
            ),
            **changes,
        )

    return Registry(root).publish(name, artifact or artifact_of(module), describe)
