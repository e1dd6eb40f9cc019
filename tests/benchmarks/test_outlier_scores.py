from __future__ import annotations

import io

import torch

from benchmarks.outlier_scores import compare
from benchmarks.serving.logits_only import without_score
from service.contract.registry import Registry
from service.model import torchscript


def test_the_graph_without_its_score_gives_the_same_logits_and_nothing_else() -> None:
    registry = Registry("models")
    manifest = registry.manifest("neural_net", registry.resolve("neural_net"))
    artifact = registry.artifact(manifest)
    with torchscript.without_deprecations():
        module = torch.jit.load(io.BytesIO(artifact))
    inputs = torch.randint(0, 256, (3, *manifest.input.shape), dtype=torch.uint8)

    plain = without_score(module)

    assert "aten::log_softmax" in str(module.inlined_graph)
    assert "aten::log_softmax" not in str(plain.inlined_graph)
    assert torch.equal(plain(inputs), module(inputs)[0])
    assert all(seconds > 0 for seconds in compare(manifest, artifact, 3))
