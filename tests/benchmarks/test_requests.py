"""What contestants are sent, and the classes that their answers tell."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from benchmarks.serving.requests import class_in_json, class_in_tensor, tensors


@pytest.mark.parametrize(
    "answer",
    [{"class_id": 7, "probability": 0.9}, [{"class_id": 7}], {"predictions": [{"class_id": 7}]}],
    ids=["alone", "in a list", "predictions"],
)
def test_the_class_is_read_from_every_form_of_json(answer: object) -> None:
    assert class_in_json({}, orjson.dumps(answer)) == 7


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("INT64", np.int64(7).tobytes()), ("INT32", np.int32(7).tobytes()), ("FP32", np.eye(10, dtype="f4")[7].tobytes())],
)
def test_the_class_is_read_from_ids_and_logits_behind_the_json(datatype: str, data: bytes) -> None:
    output = {"name": "any", "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    head = orjson.dumps({"outputs": [output]})

    assert class_in_tensor({"inference-header-content-length": str(len(head))}, head + data) == 7


def test_the_class_is_read_from_an_output_in_json() -> None:
    assert class_in_tensor({}, orjson.dumps({"outputs": [{"name": "class_ids", "data": [7]}]})) == 7


def test_a_tensor_of_images_follows_the_json_that_describes_it() -> None:
    pixels = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)

    bodies, headers = tensors(pixels, 1, "class_ids")

    length = int(headers["Inference-Header-Content-Length"])
    described = orjson.loads(bodies[2][:length])["inputs"][0]
    assert len(bodies) == 3
    assert described["shape"] == [1, 3, 2, 2]
    assert bodies[2][length:] == pixels[2].transpose(2, 0, 1).tobytes()
