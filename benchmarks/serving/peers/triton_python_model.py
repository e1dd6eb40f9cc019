"""What Triton's Python backend runs: PNGs to the most probable classes, a whole batch at once."""

import os
import sys
import warnings

sys.path[1:1] = os.environ["PYTHONPATH"].split(":")  # which the interpreter in the stub does not read

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from kornia_rs.io import decode_image_png_u8  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):  # noqa: ARG002 - Triton's signature
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = torch.jit.load(os.environ["MODEL"]).eval()

    def execute(self, requests):
        sizes, images = [], []
        for request in requests:
            rows = triton.get_input_tensor_by_name(request, "png").as_numpy()
            sizes.append(len(rows))
            images += [decode_image_png_u8(row[0], (28, 28), "mono")[:, :, 0] for row in rows]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(images))[:, None]
            probabilities, classes = self.model(batch).softmax(1).max(1)
        probabilities, classes = probabilities.numpy()[:, None], classes.numpy()[:, None]
        responses, start = [], 0
        for size in sizes:
            part = slice(start, start + size)
            start += size
            outputs = [triton.Tensor("class_id", classes[part]), triton.Tensor("probability", probabilities[part])]
            responses.append(triton.InferenceResponse(output_tensors=outputs))
        return responses
