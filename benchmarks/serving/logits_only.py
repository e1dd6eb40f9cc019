"""An artifact without its outlier score, for contestants that know of logits alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from service.model import torchscript


class _Logits(nn.Module):
    def __init__(self, artifact: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.artifact = artifact

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.artifact(images)[0]
        return logits


def without_score(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Return a module with two outputs as one that gives the first; freezing removes what only the second needed."""
    with torchscript.without_deprecations():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(_Logits(module).eval()))
    return frozen


def write_logits_only(artifact: Path, folder: Path) -> Path:
    """Write the same network without what only its score needs; an artifact that has none is returned as it is."""
    with torchscript.without_deprecations():
        module = torch.jit.load(artifact)
        if next(module.graph.outputs()).type().kind() != "TupleType":
            return artifact
        path = folder / artifact.name
        torch.jit.save(without_score(module), path)
    return path
