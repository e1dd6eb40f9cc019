"""What BentoML serves: each request bears a list of one image, and lists are joined to batches."""

import os

import bentoml
import numpy as np
import torch
from PIL.Image import Image


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024})
class Classifier:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = torch.jit.load(os.environ["MODEL"]).eval()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, images: list[Image]) -> list[dict[str, float]]:
        batch = []
        for image in images:
            pixels = torch.from_numpy(np.array(image))
            batch.append(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))
        with torch.inference_mode():
            probabilities, classes = self.model(torch.stack(batch)).softmax(1).max(1)
        found = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [{"class_id": class_id, "probability": probability} for class_id, probability in found]
