"""What granian runs without batching: each PNG is classified where it arrives."""

import imagecodecs
from onnx_model import classify

HEADERS = [("content-type", "application/json")]


async def app(scope, proto):
    if scope.proto != "http":
        return
    try:
        answer = classify(await proto())
    except (imagecodecs.SpngError, ValueError):
        proto.response_bytes(400, HEADERS, b'{"detail":"the body must be a PNG of 28 x 28 grey pixels"}')
    else:
        proto.response_bytes(200, HEADERS, answer)
