"""The Open Inference Protocol, as the public tritonclient package speaks it to a real service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service.api.open_inference.schema import InputTensor
from service.api.open_inference.tensors import Binary, read_bytes
from service.problems import BadRequest
from tests import pictures
from tests.running import Service
from tests.waiting import wait_until

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as connected:
        yield connected


def rows(*classes: int) -> np.ndarray:
    """uint8 [N, 1, 28, 28]: an image of each class."""
    return np.stack([np.asarray(pictures.row(class_id))[None] for class_id in classes])


def image_input(images: np.ndarray, *, binary: bool) -> Any:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def test_the_server_is_live_and_ready_and_says_what_it_can(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rows")
    assert client.is_model_ready("rows", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "statistics",
    ]


def test_a_models_metadata_and_config_say_what_goes_in_and_comes_out(client: Any) -> None:
    metadata = client.get_model_metadata("rows")
    config = client.get_model_config("sign", "1")

    assert metadata["platform"] == "pytorch_torchscript"
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}
    assert [output["name"] for output in metadata["outputs"]] == ["class_ids", "probabilities", "logits"]
    assert config["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [2]}]


def test_the_statistics_of_a_model_grow_with_its_requests(client: Any) -> None:
    def statistics() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("photos")["model_stats"]
        return dict(found)

    before = statistics()
    tensor = triton.InferInput("images", [3, 3, 32, 32], "UINT8")
    client.infer("photos", [tensor.set_data_from_numpy(np.zeros((3, 3, 32, 32), np.uint8))])
    after = wait_until(lambda: (found := statistics())["inference_count"] > before["inference_count"] and found)

    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["last_inference"] / 1000 == pytest.approx(time.time(), abs=60)
    gained = {
        name: (after["inference_stats"][name]["count"] - was["count"], after["inference_stats"][name]["ns"] - was["ns"])
        for name, was in before["inference_stats"].items()
    }
    for name in ("success", "queue", "compute_infer"):
        count, nanoseconds = gained[name]
        assert count == 1
        assert nanoseconds > 0
    assert gained["fail"] == (0, 0)


def test_statistics_are_of_all_models_of_one_or_of_one_version(client: Any) -> None:
    of_all = client.get_inference_statistics()["model_stats"]

    assert [found["name"] for found in of_all] == ["photos", "rows", "sign"]
    assert client.get_inference_statistics("rows", "1")["model_stats"][0]["version"] == "1"
    with pytest.raises(triton.InferenceServerException, match="model must be one of"):
        client.get_inference_statistics("nope")


def test_a_service_without_keys_lets_nobody_change_what_it_serves(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="start it with --api-keys-file"):
        client.unload_model("rows")
    with pytest.raises(triton.InferenceServerException, match="only a key with the scope admin"):
        client.load_model("rows")


def test_a_model_says_in_which_form_it_is_computed(client: Any) -> None:
    form = {"form": "published", "threads": 1, "device": "cpu", "graphs": False}

    drift = {"drift": "not watched, because the manifest has no distributions"}
    assert client.get_model_metadata("rows")["parameters"] == form | drift
    assert client.get_model_config("rows")["parameters"] == {
        name: {"string_value": str(value).lower()} for name, value in form.items()
    }


def test_a_model_tells_the_evidence_about_half_precision(client: Any) -> None:
    evidence = {
        "float16_agreement": 0.9985,
        "float16_accuracy_difference": -0.0001,
        "float16_data": "photos/test",
        "float16_n": 10_000,
    }

    metadata, config = client.get_model_metadata("photos"), client.get_model_config("photos")

    assert metadata["parameters"].items() >= evidence.items()
    assert config["parameters"].items() >= {name: {"string_value": str(v)} for name, v in evidence.items()}.items()


def test_the_repository_is_listed(client: Any) -> None:
    assert {entry["name"]: entry["state"] for entry in client.get_model_repository_index()} == {
        "photos": "READY",
        "rows": "READY",
        "sign": "READY",
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_go_in_and_come_out_as_json_or_as_bytes(client: Any, binary_in: bool, binary_out: bool) -> None:
    names = ["class_ids", "probabilities", "logits"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]

    result = client.infer("rows", [image_input(rows(4, 7), binary=binary_in)], outputs=outputs, request_id="mine")

    assert result.get_response()["id"] == "mine"
    assert result.as_numpy("class_ids").tolist() == [4, 7]
    probabilities, logits = result.as_numpy("probabilities"), result.as_numpy("logits")
    assert probabilities.shape == logits.shape == (2, 10)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(logits[0], np.eye(10)[4] * 28, atol=1e-4)


def test_more_inputs_than_a_batch_holds_come_out_in_order(client: Any) -> None:
    classes = [i % 10 for i in range(700)]

    result = client.infer("rows", [image_input(rows(*classes), binary=True)])

    assert result.as_numpy("class_ids").tolist() == classes


def test_encoded_files_go_in_as_bytes(client: Any) -> None:
    files = np.array([pictures.row_png(3), pictures.encode(pictures.row(5), "BMP")], dtype=Any)
    tensor = triton.InferInput("files", [2], "BYTES")
    tensor.set_data_from_numpy(files)

    assert client.infer("rows", [tensor]).as_numpy("class_ids").tolist() == [3, 5]


def test_features_go_in_as_floats(client: Any) -> None:
    tensor = triton.InferInput("features", [2, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 0], [-1, 0]], np.float32))

    assert client.infer("sign", [tensor], model_version="1").as_numpy("class_ids").tolist() == [1, 0]


@pytest.mark.parametrize("binary", [True, False])
def test_a_classification_names_the_most_probable_classes(client: Any, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2, binary_data=binary)]

    result = client.infer("rows", [image_input(rows(6), binary=True)], outputs=outputs)

    first = result.as_numpy("probabilities")[0][0]
    value, index, label = (first.decode() if binary else first).split(":")
    assert (float(value), index, label) == (pytest.approx(1, abs=1e-3), "6", "6")  # type: ignore[comparison-overlap]


IMAGE = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": [0] * 784}

DESCRIBED = b'"name": "images", "datatype": "UINT8", "shape": [1, 1, 28, 28]'
"""The JSON of an image but for its data."""

WRONG = {
    "no JSON": (b"nope", 400),
    "a list": ([IMAGE], 400),
    "more behind the JSON": (b'{"inputs": [{%b}]} []' % DESCRIBED, 400),
    "a text that is no UTF-8": (b'{"inputs": [{%b}], "id": "\xff"}' % DESCRIBED, 400),
    "data whose text is no UTF-8": (b'{"inputs": [{%b, "data": ["\xff"]}]}' % DESCRIBED, 400),
    "no numbers": (b'{"inputs": [{%b, "data": [NaN]}]}' % DESCRIBED, 400),
    "numbers without end": (b'{"inputs": [{%b, "data": [1e999]}]}' % DESCRIBED, 400),
    "a parameter without end": (b'{"inputs": [{%b, "parameters": {"a b": {"c": [1e999]}}}]}' % DESCRIBED, 400),
    "an endless number of bytes": (
        b'{"inputs": [{%b, "parameters": {"binary_data_size": %b}}]}' % (DESCRIBED, b"9" * 4000),
        400,
    ),
    "an endless shape": (b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [%b]}]}' % (b"9" * 4000), 400),
    "a shape of fractions": ({"inputs": [{**IMAGE, "shape": [1.0, 1, 28, 28]}]}, 400),
    "a shape of truths": ({"inputs": [{**IMAGE, "shape": [True, 1, 28, 28]}]}, 400),
    "a shape of nine sides": ({"inputs": [{**IMAGE, "shape": [1] * 9}]}, 400),
    "no shape": ({"inputs": [{"name": "images", "datatype": "UINT8"}]}, 400),
    "a list twice, of which the longer one is wrong": (
        b'{"inputs": [{%b, "data": [0], "shape": [1, true], "shape": [1]}]}' % DESCRIBED,
        400,
    ),
    "an input twice, of which the first one is wrong": (b'{"inputs": [{"name": 1}], "inputs": 7}', 400),
    "a number for an id": ({"inputs": [IMAGE], "id": 7}, 400),
    "no inputs": ({}, 400),
    "no list of inputs": ({"inputs": 7}, 400),
    "two inputs": ({"inputs": [IMAGE, IMAGE]}, 400),
    "an unknown input": ({"inputs": [{**IMAGE, "name": "picture"}]}, 422),
    "another datatype": ({"inputs": [{**IMAGE, "datatype": "FP32"}]}, 422),
    "files of another datatype": ({"inputs": [{**IMAGE, "name": "files", "shape": [1]}]}, 422),
    "a name of a megabyte": ({"inputs": [{**IMAGE, "name": "n" * 2**20}]}, 400),
    "a datatype of a megabyte": ({"inputs": [{**IMAGE, "datatype": "n" * 2**20}]}, 400),
    "another shape": ({"inputs": [{**IMAGE, "shape": [1, 3, 28, 28]}]}, 422),
    "no image at all": ({"inputs": [{**IMAGE, "shape": [0, 1, 28, 28], "data": []}]}, 422),
    "a negative shape": ({"inputs": [{**IMAGE, "shape": [-1, 1, 28, 28]}]}, 422),
    "too few numbers": ({"inputs": [{**IMAGE, "data": [0]}]}, 400),
    "no data": ({"inputs": [{key: value for key, value in IMAGE.items() if key != "data"}]}, 400),
    "numbers beyond a byte": ({"inputs": [{**IMAGE, "data": [256] * 784}]}, 422),
    "fractions": ({"inputs": [{**IMAGE, "data": [0.5] * 784}]}, 422),
    "truths for numbers": ({"inputs": [{**IMAGE, "data": [True] * 784}]}, 422),
    "a truth among numbers": ({"inputs": [{**IMAGE, "data": [0] * 783 + [False]}]}, 422),
    "too many images": ({"inputs": [{**IMAGE, "shape": [1025, 1, 28, 28]}]}, 413),
    "more bytes than there are": (
        {
            "inputs": [
                {"name": "images", "datatype": "UINT8", "shape": [1, 1, 28, 28], "parameters": {"binary_data_size": 9}}
            ]
        },
        400,
    ),
    "an unknown output": ({"inputs": [IMAGE], "outputs": [{"name": "boxes"}]}, 422),
    "an output named twice": ({"inputs": [IMAGE], "outputs": [{"name": "logits"}] * 2}, 400),
    "more outputs than there are": ({"inputs": [IMAGE], "outputs": [{"name": "logits"}] * 1500}, 400),
    "more numbers than any request needs": ({"inputs": [{**IMAGE, "data": [0] * 900_000}]}, 413),
    "lists of several lengths": ({"inputs": [{**IMAGE, "data": [[0] * 783, [0]]}]}, 400),
    "data that is no list": ({"inputs": [{**IMAGE, "data": {}}]}, 400),
    "words for numbers": ({"inputs": [{**IMAGE, "data": ["0"] * 784}]}, 422),
    "a classification of none": (
        {"inputs": [IMAGE], "outputs": [{"name": "logits", "parameters": {"classification": 0}}]},
        422,
    ),
    "a classification of ids": (
        {"inputs": [IMAGE], "outputs": [{"name": "class_ids", "parameters": {"classification": 1}}]},
        422,
    ),
}


@pytest.mark.parametrize(
    ("document", "words"),
    {
        "[]": "the body must be as the protocol says: Expected `object`, got `array`. Given: []",
        '{"inputs": []}': "inputs must be as the protocol says: Expected `array` of length >= 1. Given: []",
        '{"inputs": [{"name": "i", "datatype": "U", "shape": [1, "2"]}]}': "inputs[0].shape[1] must be as the protocol "
        "says: Expected `int`, got `str`. Given: '2'",
    }.items(),
)
def test_a_refusal_says_where_the_request_breaks_the_protocol(service: Service, document: str, words: str) -> None:
    answer = service.client.post("/v2/models/rows/infer", content=document)

    assert answer.json() == {"error": words}


def test_an_answer_has_its_requests_id(service: Service) -> None:
    document = {"inputs": [IMAGE], "outputs": [{"name": "class_ids"}]}

    with_id = service.client.post("/v2/models/rows/infer", json={**document, "id": "mine"}).json()
    without = service.client.post("/v2/models/rows/infer", json=document).json()

    assert with_id["id"] == "mine"
    assert {**without, "id": "mine"} == with_id


@pytest.mark.parametrize(("document", "status"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_in_the_protocols_shape(service: Service, document: Any, status: int) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()

    answer = service.client.post("/v2/models/rows/infer", content=body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert len(answer.content) < 1000
    assert "Given: " in answer.json()["error"] or "alone" in answer.json()["error"]


def test_the_index_takes_a_small_document_alone(service: Service) -> None:
    answer = service.client.post("/v2/repository/index", content=b'{"ready":[' + b"[]," * 99 + b"[]]}")

    assert answer.status_code == 413
    assert "at most 16 numbers" in answer.json()["error"]


def test_an_unknown_model_is_refused_in_the_protocols_shape(service: Service) -> None:
    for path in ("", "/ready", "/config", "/versions/9"):
        answer = service.client.get(f"/v2/models/nope{path}")

        assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_bytes_that_no_input_takes_are_refused(service: Service) -> None:
    head = json.dumps({"inputs": [IMAGE]}).encode()

    answer = service.client.post(
        "/v2/models/rows/infer", content=head + b"x", headers={"Inference-Header-Content-Length": str(len(head))}
    )

    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("data", "given"),
    [
        (bytes(4), "1"),
        (bytes(12), "more"),
        (bytes(16 * 2**20 - 2), "more"),  # before all of them are taken apart, and it is seen that the last is cut off
        (bytes(4) + b"\1\0\0\0", "one cut off"),
    ],
    ids=["too few", "too many", "millions", "cut off"],
)
def test_files_are_as_many_as_their_shape_says(data: bytes, given: str) -> None:
    tensor = InputTensor(name="files", shape=[2], datatype="BYTES", parameters={"binary_data_size": len(data)})

    with pytest.raises(BadRequest, match=f"Given: {given}$"):
        read_bytes(tensor, Binary(data))


def test_inference_requests_are_counted_with_the_others(service: Service, client: Any) -> None:
    before = service.metric_at_rest("inference_requests_total", code="200", model="photos")

    client.infer("photos", [image_input(np.zeros((1, 3, 32, 32), np.uint8), binary=True)])

    assert service.metric_at_rest("inference_requests_total", code="200", model="photos") == before + 1
