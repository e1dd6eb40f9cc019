"""Ray Serve with its dynamic batching, as its documentation has it. PORT and MODEL are set."""

import io
import os
import signal

import numpy as np
import ray
import torch
from PIL import Image
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class Classifier:
    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        self.model = torch.jit.load(path).eval()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def classify(self, bodies: list[bytes]) -> list[dict[str, float]]:
        images = []
        for body in bodies:
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body))))
            images.append(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))
        with torch.inference_mode():
            probabilities, classes = self.model(torch.stack(images)).softmax(1).max(1)
        found = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [{"class_id": class_id, "probability": probability} for class_id, probability in found]

    async def __call__(self, request: Request) -> dict[str, float]:
        return await self.classify(await request.body())


ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(os.environ["PORT"])))
serve.run(Classifier.bind(os.environ["MODEL"]), route_prefix="/predict", logging_config={"enable_access_log": False})
signal.sigwait({signal.SIGTERM, signal.SIGINT})
serve.shutdown()
ray.shutdown()
