"""What TorchServe runs for each batch."""

import io

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler


class Classifier(BaseHandler):
    def initialize(self, context):
        torch.set_num_threads(1)
        properties = context.system_properties
        self.model = torch.jit.load(f"{properties['model_dir']}/{context.manifest['model']['serializedFile']}").eval()
        self.initialized = True

    def handle(self, data, context):  # noqa: ARG002 - TorchServe's signature
        images = []
        for row in data:
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(row.get("data") or row.get("body")))))
            images.append(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))
        with torch.inference_mode():
            probabilities, classes = self.model(torch.stack(images)).softmax(1).max(1)
        found = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [{"class_id": class_id, "probability": probability} for class_id, probability in found]
