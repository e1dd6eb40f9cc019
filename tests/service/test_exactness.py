"""What is served is what was measured: the shipped models, replayed through HTTP on real test images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.conftest import ROOT
from tests.service.conftest import Service, serving

IN_FLIGHT = 64


def mnist_test_images(root: Path) -> np.ndarray:
    """uint8 [10000, 28, 28]."""
    raw = (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


async def predict_all(service: Service, encoded: list[bytes]) -> list[int]:
    """The class of each image, each POSTed alone, 64 at a time."""
    classes = [-1] * len(encoded)
    waiting = iter(enumerate(encoded))
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:

        async def send_on() -> None:
            for index, content in waiting:
                answer = await client.post("/predict", content=content, headers={"content-type": "image/png"})
                classes[index] = answer.json()["predictions"][0]["class_id"]

        await asyncio.gather(*(send_on() for _ in range(IN_FLIGHT)))
    return classes


@pytest.mark.data
def test_all_mnist_test_images_are_answered_as_training_recorded(mnist_root: Path) -> None:
    encoded = [pictures.encode(Image.fromarray(image)) for image in mnist_test_images(mnist_root)]
    recorded = json.loads((ROOT / "models" / "neural_net" / "1" / "evaluation.json").read_text())

    with serving(ROOT / "models", "--default-model", "neural_net") as service:
        served = asyncio.run(predict_all(service, encoded))
        together = service.metric_at_rest("inference_batch_size_sum") / service.metric("inference_batch_size_count")

    assert served == recorded["predicted"]
    assert together > 1
