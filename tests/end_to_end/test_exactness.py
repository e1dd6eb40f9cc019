"""What is served is what was measured: the shipped models, replayed through HTTP on real test images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from service.contract.registry import Registry
from tests import load, pictures
from tests.conftest import ROOT
from tests.running import serving

IN_FLIGHT = 64


def mnist_test_images(root: Path) -> np.ndarray:
    """uint8 [10000, 28, 28]."""
    raw = (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


def test_what_we_ship_answers_a_digit_without_being_named() -> None:
    stroke = Image.new("L", (280, 280), "white")
    ImageDraw.Draw(stroke).line([(150, 40), (130, 240)], fill="black", width=22)

    with serving(ROOT / "models") as service:
        answer = service.predict(pictures.encode(stroke)).json()

    assert answer["predictions"][0]["label"] == "1"


@pytest.mark.data
@pytest.mark.parametrize("model", ["neural_net", "mnist"])
def test_all_mnist_test_images_are_answered_as_training_recorded(mnist_root: Path, model: str) -> None:
    encoded = [pictures.encode(Image.fromarray(image)) for image in mnist_test_images(mnist_root)]
    version = str(Registry(ROOT / "models").resolve(model))
    recorded = json.loads((ROOT / "models" / model / version / "evaluation.json").read_text())

    with serving(ROOT / "models", "--default-model", model, traced=False) as service:
        served = asyncio.run(load.classes_of(service.port, encoded, connections=IN_FLIGHT))
        together = service.metric_at_rest("inference_batch_size_sum") / service.metric("inference_batch_size_count")

    assert served == recorded["predicted"]
    assert together > 1
