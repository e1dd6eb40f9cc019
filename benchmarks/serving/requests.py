"""Kinds of requests: where they go, what they carry, and how their answers tell the class. Knows nothing of servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import orjson

from benchmarks.pictures import Pixels, pngs
from benchmarks.serving.load import Posts


@dataclass(frozen=True)
class Request:
    """One kind of request; `path` is formatted with {model}, the model's name."""

    title: str
    path: str
    posts: Callable[[Pixels], Posts]
    class_in: Callable[[Mapping[str, str], bytes], int]
    """The class in an answer, given by its headers (in lower case) and its body."""

    def url(self, port: int, model: str) -> str:
        return f"http://127.0.0.1:{port}{self.path.format(model=model)}"


def form(groups: list[list[bytes]], field: str) -> Posts:
    """Return a multipart body for each group of images."""
    head = f'Content-Disposition: form-data; name="{field}"; filename="image.png"\r\nContent-Type: image/png\r\n\r\n'
    bodies = [
        b"".join(b"--benchmark\r\n" + head.encode() + image + b"\r\n" for image in images) + b"--benchmark--\r\n"
        for images in groups
    ]
    return Posts(bodies, {"Content-Type": "multipart/form-data; boundary=benchmark"})


def tensors(pixels: Pixels, size: int, output: str) -> Posts:
    """Return batches of `size` images by the Open Inference Protocol, as tritonclient sends them.

    The raw bytes, uint8 [N, C, H, W], follow the JSON that describes them; `output` is asked for as raw bytes too.
    """
    bodies = []
    for start in range(0, len(pixels) - size + 1, size):
        data = np.ascontiguousarray(pixels[start : start + size].transpose(0, 3, 1, 2))
        parameters = {"binary_data_size": data.nbytes}
        given = {"name": "images", "datatype": "UINT8", "shape": data.shape, "parameters": parameters}
        wanted = {"name": output, "parameters": {"binary_data": True}}
        head = orjson.dumps({"inputs": [given], "outputs": [wanted]})
        bodies.append(head + data.tobytes())
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Posts(bodies, headers)


def class_in_json(_: Mapping[str, str], body: bytes) -> int:
    """Return the class of {"class_id": ...} alone, in a list, or in the list of predictions of Argmax."""
    document = orjson.loads(body)
    found = document.get("predictions", document) if isinstance(document, dict) else document
    return int((found[0] if isinstance(found, list) else found)["class_id"])


def class_in_tensor(headers: Mapping[str, str], body: bytes) -> int:
    """Return the class of the protocol's first output: class ids or logits, in JSON or as bytes behind it."""
    length = int(headers.get("inference-header-content-length", len(body)))
    output = orjson.loads(body[:length])["outputs"][0]
    if "data" in output:
        return int(output["data"][0])
    data = body[length : length + output["parameters"]["binary_data_size"]]
    if output["datatype"] == "FP32":
        return int(np.frombuffer(data, np.float32).argmax())
    return int.from_bytes(data, "little")


def _png(pixels: Pixels) -> Posts:
    return Posts(pngs(pixels), {"Content-Type": "image/png"})


def _raw_png(pixels: Pixels) -> Posts:
    """Return Triton's raw binary requests, whose body is the only input."""
    return Posts(pngs(pixels), {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"})


def png(path: str = "/predict") -> Request:
    """Return the request that carries a PNG file and nothing else."""
    return Request("PNG", path, _png, class_in_json)


def png_in_form(field: str) -> Request:
    return Request("PNG in a form", "/predict", lambda pixels: form([[i] for i in pngs(pixels)], field), class_in_json)


def tensor_of_one(output: str) -> Request:
    return Request("v2 tensor", _INFER, lambda pixels: tensors(pixels, 1, output), class_in_tensor)


_INFER = "/v2/models/{model}/infer"

PNG = png()
RAW_PNG = Request("PNG in raw v2", _INFER, _raw_png, class_in_tensor)
