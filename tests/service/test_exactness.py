"""What is served is what was measured: the shipped models, replayed through HTTP on real test images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import load, pictures
from tests.conftest import ROOT
from tests.service.conftest import serving

IN_FLIGHT = 64


def mnist_test_images(root: Path) -> np.ndarray:
    """uint8 [10000, 28, 28]."""
    raw = (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.mark.data
def test_all_mnist_test_images_are_answered_as_training_recorded(mnist_root: Path) -> None:
    encoded = [pictures.encode(Image.fromarray(image)) for image in mnist_test_images(mnist_root)]
    recorded = json.loads((ROOT / "models" / "neural_net" / "1" / "evaluation.json").read_text())

    with serving(ROOT / "models", "--default-model", "neural_net", traced=False) as service:
        served = asyncio.run(load.classes_of(service.port, encoded, connections=IN_FLIGHT))
        together = service.metric_at_rest("inference_batch_size_sum") / service.metric("inference_batch_size_count")

    assert served == recorded["predicted"]
    assert together > 1
