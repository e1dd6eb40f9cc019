"""What granian runs: PNGs by Rust's png crate; one call of ONNX Runtime for all the images that wait in the process."""

import asyncio
import os

import numpy as np
import onnxruntime
import orjson
from kornia_rs.io import decode_image_png_u8

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_session = onnxruntime.InferenceSession(os.environ["ONNX"], _options, providers=["CPUExecutionProvider"])._sess
_outputs = ["class_id", "probability"]

HEADERS = [("content-type", "application/json")]

waiting: list[tuple[np.ndarray, asyncio.Future]] = []


def compute() -> None:
    batch = waiting[:]
    waiting.clear()
    images = np.stack([image for image, _ in batch])[:, None]
    classes, probabilities = _session.run(_outputs, {"image": images}, None)
    for (_, future), class_id, probability in zip(batch, classes.tolist(), probabilities.tolist(), strict=True):
        future.set_result((class_id, probability))


async def app(scope, proto):
    if scope.proto != "http":
        return
    try:
        image = decode_image_png_u8(await proto(), (28, 28), "mono")[:, :, 0]
    except Exception:  # noqa: BLE001 - the decoder has no class of error of its own
        proto.response_bytes(400, HEADERS, b'{"detail":"the body must be a PNG of 28 x 28 grey pixels"}')
        return
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    if not waiting:
        loop.call_soon(compute)
    waiting.append((image, future))
    class_id, probability = await future
    proto.response_bytes(200, HEADERS, orjson.dumps({"class_id": class_id, "probability": probability}))
