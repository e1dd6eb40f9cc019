"""What granian runs without batching: each PNG is classified where it arrives."""

from onnx_model import classify

HEADERS = [("content-type", "application/json")]


async def app(scope, proto):
    if scope.proto != "http":
        return
    try:
        answer = classify(await proto())
    except Exception:  # noqa: BLE001 - the decoder has no class of error of its own
        proto.response_bytes(400, HEADERS, b'{"detail":"the body must be a PNG of 28 x 28 grey pixels"}')
    else:
        proto.response_bytes(200, HEADERS, answer)
