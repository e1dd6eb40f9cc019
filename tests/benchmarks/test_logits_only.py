from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.serving.logits_only import write_logits_only
from service.contract.registry import ARTIFACT, Registry
from service.model import torchscript
from tests.registries import publish


def test_others_get_the_network_without_its_score(tmp_path: Path) -> None:
    registry = Path("models")
    artifact = registry / "neural_net" / str(Registry("models").resolve("neural_net")) / ARTIFACT
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)

    path = write_logits_only(artifact, tmp_path)

    logits, scores = torchscript.load(path.read_bytes(), torch.device("cpu")).run(images)
    whole, its_scores = torchscript.load(artifact.read_bytes(), torch.device("cpu")).run(images)
    assert torch.equal(logits, whole)
    assert scores is None
    assert its_scores is not None


def test_an_artifact_without_a_score_stays_as_it_is(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    artifact = tmp_path / "rows" / "1" / ARTIFACT

    assert write_logits_only(artifact, tmp_path) == artifact
