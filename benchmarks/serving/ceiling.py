"""The in-process ceiling: one process, bare ASGI, torchvision's decoder, one model call for whatever waits.

No validation beyond decoding, no isolation, no limits, no metrics: what a server on uvicorn could reach if it did
nothing else. MODEL names the TorchScript file.
"""

import asyncio
import os
import warnings

import orjson
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchvision  # noqa: F401 - registers the decoder

    model = torch.jit.load(os.environ["MODEL"]).eval()

torch.set_num_threads(1)
decode_png = torch.ops.image.decode_png.default
waiting: list[tuple[torch.Tensor, asyncio.Future[tuple[int, float]]]] = []


@torch.inference_mode()
def compute() -> None:
    batch = waiting[:]
    waiting.clear()
    probabilities, classes = model(torch.stack([image for image, _ in batch])).softmax(1).max(1)
    for (_, future), class_id, probability in zip(batch, classes.tolist(), probabilities.tolist(), strict=True):
        future.set_result((class_id, probability))


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    image = decode_png(torch.frombuffer(bytearray(body), dtype=torch.uint8), 1, False)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[int, float]] = loop.create_future()
    if not waiting:
        loop.call_soon(compute)
    waiting.append((image, future))
    class_id, probability = await future
    answer = orjson.dumps({"class_id": class_id, "probability": probability})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
