"""LitServe as its documentation shows it: decode in the worker, batch by size and timeout. PORT and MODEL are set."""

import io
import os
import warnings

import litserve as ls
import numpy as np
import torch
from fastapi import UploadFile
from PIL import Image


class Classifier(ls.LitAPI):
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = torch.jit.load(os.environ["MODEL"]).to(device).eval()

    def decode_request(self, request: UploadFile) -> torch.Tensor:
        image = Image.open(io.BytesIO(request.file.read()))
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    @torch.inference_mode()
    def predict(self, x: torch.Tensor) -> list[tuple[int, float]]:
        outputs = self.model(x)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs  # beside which there may be an outlier score
        probabilities, classes = logits.softmax(1).max(1)
        return list(zip(classes.tolist(), probabilities.tolist(), strict=True))

    def unbatch(self, output: list[tuple[int, float]]) -> list[tuple[int, float]]:
        return output

    def encode_response(self, output: tuple[int, float]) -> dict[str, float]:
        return {"class_id": output[0], "probability": output[1]}


if __name__ == "__main__":
    api = Classifier(max_batch_size=64, batch_timeout=0.001)
    server = ls.LitServer(api, accelerator="cpu", devices=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", generate_client_file=False)
