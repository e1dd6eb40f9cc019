"""mosec (Rust HTTP, batches over a Unix socket to Python processes), as its documentation advises for one CPU model.

Two workers with batches of 32, so that 64 connections fill both; 1 ms is its shortest wait. PORT and MODEL are set.
"""

import os
import sys
import warnings

import numpy as np
import orjson
import torch
from kornia_rs.io import decode_image_png_u8
from mosec import Server, Worker

WORKERS, BATCH, WAIT_MS = 2, 32, 1


class Classifier(Worker):
    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = torch.jit.load(os.environ["MODEL"]).eval()
        with torch.inference_mode():
            for size in (1, 2, 8, BATCH):
                for _ in range(5):
                    self.model(torch.zeros(size, 1, 28, 28, dtype=torch.uint8))

    def deserialize(self, data: bytes) -> np.ndarray:
        return decode_image_png_u8(bytes(data), (28, 28), "mono")[:, :, 0]

    def forward(self, data: list[np.ndarray]) -> list[dict[str, float]]:
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(data))[:, None]
            probabilities, classes = self.model(batch).softmax(1).max(1)
        found = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [{"class_id": class_id, "probability": probability} for class_id, probability in found]

    def serialize(self, data: dict[str, float]) -> bytes:
        return orjson.dumps(data)


if __name__ == "__main__":
    # mosec reads its own options from the command line.
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["PORT"], "--timeout", "10000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Classifier, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS, route="/predict")
    server.run()
