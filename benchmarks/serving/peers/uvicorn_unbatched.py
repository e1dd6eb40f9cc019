"""What bare uvicorn runs without batching: each PNG is classified where it arrives."""

from onnx_model import classify

TYPE = (b"content-type", b"application/json")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    status = 200
    try:
        answer = classify(body)
    except Exception:  # noqa: BLE001 - the decoder has no class of error of its own
        status, answer = 400, b'{"detail":"the body must be a PNG of 28 x 28 grey pixels"}'
    headers = [TYPE, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
