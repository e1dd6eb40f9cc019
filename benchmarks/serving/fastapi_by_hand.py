"""What one writes in an afternoon: FastAPI, Pillow, one image at a time."""

import io
import os
import warnings

import numpy as np
import torch
from fastapi import FastAPI, Request
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model = torch.jit.load(os.environ["MODEL"]).eval()

torch.set_num_threads(1)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    image = Image.open(io.BytesIO(await request.body()))
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    with torch.inference_mode():
        probability, class_id = model(pixels[None]).softmax(1).max(1)
    return {"class_id": class_id.item(), "probability": probability.item()}
