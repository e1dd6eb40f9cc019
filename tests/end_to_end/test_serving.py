"""The service as its users meet it: real processes, real sockets."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import io
import json
import re
import socket
import time

import httpx
import pytest
from PIL import Image, ImageOps

from tests import pictures
from tests.running import Service


def test_a_png_is_answered_with_the_class_that_it_shows(service: Service) -> None:
    answers = [service.predict(pictures.row_png(class_id)) for class_id in range(10)]

    assert [answer.status_code for answer in answers] == [200] * 10
    assert [answer.json()["predictions"][0]["class_id"] for answer in answers] == list(range(10))
    assert answers[7].json() == {
        "model": "rows",
        "version": 1,
        "predictions": [{"class_id": 7, "label": "7", "probability": pytest.approx(1.0, abs=1e-4)}],
    }


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")],
)
def test_every_image_type_is_taken(service: Service, kind: str, content_type: str) -> None:
    answer = service.predict(pictures.encode(pictures.row(3), kind), content_type)

    assert answer.json()["predictions"][0]["class_id"] == 3


def test_an_octet_stream_is_taken_for_the_image_that_it_is(service: Service) -> None:
    answer = service.predict(pictures.row_png(5), "application/octet-stream")

    assert answer.json()["predictions"][0]["class_id"] == 5


def test_top_k_lists_the_most_probable_classes_first_and_no_more_than_there_are(service: Service) -> None:
    few = service.predict(pictures.row_png(2), query="?top_k=3").json()["predictions"][0]["top_k"]
    all_of_them = service.predict(pictures.row_png(2), query="?top_k=99").json()["predictions"][0]["top_k"]

    assert [entry["class_id"] for entry in few] == [2, 0, 1]
    assert len(all_of_them) == 10
    assert sum(entry["probability"] for entry in all_of_them) == pytest.approx(1, abs=1e-4)


def test_probabilities_are_given_for_all_classes_in_their_order(service: Service) -> None:
    entry = service.predict(pictures.row_png(2), query="?probabilities=true").json()["predictions"][0]

    assert len(entry["probabilities"]) == 10
    assert entry["probabilities"][2] == max(entry["probabilities"]) == entry["probability"]


def test_what_the_network_saw_is_shown_on_request(service: Service) -> None:
    dark_on_light = ImageOps.invert(pictures.row(3))

    entry = service.predict(pictures.encode(dark_on_light), query="?show_input=true").json()["predictions"][0]

    head, _, data = entry["input"].partition(",")
    seen = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64"
    assert (seen.size, seen.mode, seen.getpixel((0, 0))) == ((28, 28), "L", 0)


def test_each_sign_of_a_picture_is_answered_on_request(service: Service) -> None:
    one, two = Image.new("L", (40, 60), 255), Image.new("L", (40, 60), 255)
    one.paste(0, (14, 10, 22, 50))
    two.paste(0, (5, 20, 35, 40))
    both = Image.new("L", (80, 60))
    both.paste(one, (0, 0))
    both.paste(two, (40, 0))

    def asked(picture: Image.Image, more: str = "") -> list[dict[str, object]]:
        answer = service.predict(pictures.encode(picture), query=f"?probabilities=true&show_input=true{more}")
        return list(answer.json()["predictions"])

    assert asked(both, "&split=true") == asked(one) + asked(two)
    assert asked(one, "&split=true") == asked(one)
    assert len(asked(both)) == 1


@pytest.mark.parametrize(
    ("query", "body", "detail"),
    [
        ("model=rows", {"images": [""] * 3}, "split takes one picture. Given: 3"),
        (
            "model=photos",
            {"image": ""},
            "split needs a model of ink, such as digits. Given: photos, which takes pictures",
        ),
        (
            "model=sign",
            {"features": [[1, 2]]},
            "split needs a model of ink, such as digits. Given: sign, which takes features",
        ),
    ],
)
def test_what_has_no_signs_cannot_be_split(service: Service, query: str, body: object, detail: str) -> None:
    refused = service.client.post(f"/predict?split=true&{query}", json=body)

    assert (refused.status_code, refused.json()["detail"]) == (422, detail)


def test_an_answer_says_who_gave_it_and_where_the_time_went(service: Service) -> None:
    headers = service.predict(pictures.row_png(2)).headers
    served = {model["name"]: model for model in service.client.get("/models").json()["models"]}

    assert (headers["x-model"], headers["x-model-version"]) == ("rows", "1")
    assert int(headers["x-batch-size"]) >= 1
    assert headers["x-model-form"] == service.client.get("/v2/models/rows").json()["parameters"]["form"]
    assert headers["x-model-digest"] == served["rows"]["digest"]
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, compute;dur=[\d.]+", headers["server-timing"])


def test_the_models_are_listed_with_what_they_take_and_tell_apart(service: Service) -> None:
    listed = service.client.get("/models").json()

    assert listed["default"] == "rows"
    assert [(m["name"], m["version"], m["default"], m["ready"]) for m in listed["models"]] == [
        ("photos", 1, True, True),
        ("rows", 1, True, True),
        ("sign", 1, True, True),
    ]
    assert listed["models"][2]["input"] == {"kind": "features", "dtype": "float32", "shape": [2]}
    assert listed["models"][2]["classes"] == ["negative", "positive"]


def test_a_form_with_several_files_is_answered_in_order(service: Service) -> None:
    files = [("anything", (f"{i}.png", pictures.row_png(i), "image/png")) for i in (4, 1, 9)]

    answer = service.client.post("/predict", files=files)

    assert [entry["class_id"] for entry in answer.json()["predictions"]] == [4, 1, 9]


def test_json_takes_one_image_or_several_and_data_urls(service: Service) -> None:
    encoded = [base64.b64encode(pictures.row_png(i)).decode() for i in range(3)]

    one = service.client.post("/predict", json={"image": encoded[2]})
    several = service.client.post("/predict", json={"images": [encoded[0], f"data:image/png;base64,{encoded[1]}"]})

    assert [entry["class_id"] for entry in one.json()["predictions"]] == [2]
    assert [entry["class_id"] for entry in several.json()["predictions"]] == [0, 1]


def test_features_are_answered_by_a_feature_model(service: Service) -> None:
    answer = service.client.post("/predict?model=sign", json={"features": [[3, 0], [-2.5, 1]]})

    assert [entry["label"] for entry in answer.json()["predictions"]] == ["positive", "negative"]


def test_a_colour_model_sees_colour(service: Service) -> None:
    picture = pictures.row(6, size=32).convert("RGB")

    answer = service.predict(pictures.encode(picture), query="?model=photos&version=1")

    assert answer.json()["model"] == "photos"
    assert answer.json()["predictions"][0]["class_id"] == 6


def test_more_images_than_a_batch_holds_are_answered_in_order(service: Service) -> None:
    encoded = [base64.b64encode(pictures.row_png(i % 10)).decode() for i in range(300)]

    answer = service.client.post("/predict", json={"images": encoded})

    assert [entry["class_id"] for entry in answer.json()["predictions"]] == [i % 10 for i in range(300)]


def test_one_bad_image_among_several_is_an_entry_with_its_error(service: Service) -> None:
    files = [
        ("f", ("a.png", pictures.row_png(1))),
        ("f", ("b.png", b"no image")),
        ("f", ("c.png", pictures.row_png(2))),
    ]

    answer = service.client.post("/predict", files=files)

    good, bad, other = answer.json()["predictions"]
    assert answer.status_code == 200
    assert (good["class_id"], other["class_id"]) == (1, 2)
    assert bad["error"]["status"] == 400
    assert "Given:" in bad["error"]["detail"]


PNG = pictures.row_png(0)
JSON = "application/json"

BAD_INPUT = {
    "an empty body": (b"", "image/png", "", 400),
    "text": (b"hello", "image/png", "", 400),
    "a truncated PNG": (PNG[: len(PNG) // 2], "image/png", "", 400),
    "a PNG bomb": (pictures.bomb(), "image/png", "", 413),
    "50 MB": (bytes(50_000_000), "image/png", "", 413),
    "a type that is no image": (PNG, "text/plain", "", 415),
    "no type": (PNG, "", "", 415),
    "broken JSON": (b'{"image": ', JSON, "", 400),
    "JSON that is no object": (b"[]", JSON, "", 422),
    "JSON with an unknown key": (b'{"picture": ""}', JSON, "", 422),
    "JSON with a number for an image": (b'{"image": 7}', JSON, "", 422),
    "JSON with no images": (b'{"images": []}', JSON, "", 422),
    "base64 that is none": (b'{"image": "%%%"}', JSON, "", 400),
    "a form without a boundary": (PNG, "multipart/form-data", "", 400),
    "a form without a file": (b"--x--\r\n", "multipart/form-data; boundary=x", "", 422),
    "features for an image model": (b'{"features": [[1, 2]]}', JSON, "", 422),
    "an image for a feature model": (PNG, "image/png", "?model=sign", 415),
    "features of the wrong width": (b'{"features": [[1]]}', JSON, "?model=sign", 422),
    "features that are no numbers": (b'{"features": [["a", null]]}', JSON, "?model=sign", 422),
    "features beyond float32": (b'{"features": [[1e300, 0]]}', JSON, "?model=sign", 422),
    "an unknown model": (PNG, "image/png", "?model=nope", 404),
    "an unknown version": (PNG, "image/png", "?version=9", 404),
    "an unknown alias": (PNG, "image/png", "?version=canary", 404),
    "a path for a model": (PNG, "image/png", "?model=../../etc", 404),
    "top_k of zero": (PNG, "image/png", "?top_k=0", 400),
    "top_k that is no number": (PNG, "image/png", "?top_k=many", 400),
    "a truth that is none": (PNG, "image/png", "?probabilities=maybe", 400),
    "a query parameter that does not exist": (PNG, "image/png", "?topk=3", 400),
    "more images than a request may hold": (json.dumps({"images": [""] * 1025}).encode(), JSON, "", 413),
}


@pytest.mark.parametrize(("body", "content_type", "query", "status"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_refused_with_what_is_required_and_what_was_given(
    service: Service, body: bytes, content_type: str, query: str, status: int
) -> None:
    answer = service.predict(body, content_type, query)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert "Given: " in problem["detail"]
    assert problem["detail"].index("must" if "must" in problem["detail"] else "takes") < problem["detail"].index(
        "Given"
    )


def test_bad_input_of_every_kind_leaves_its_neighbours_in_flight_alone(service: Service) -> None:
    async def send_all() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:

            async def send(body: bytes, content_type: str, query: str) -> httpx.Response:
                return await client.post(f"/predict{query}", content=body, headers={"content-type": content_type})

            good = [send(pictures.row_png(i % 10), "image/png", "") for i in range(200)]
            bad = [send(body, kind, query) for body, kind, query, _ in BAD_INPUT.values() if len(body) < 10_000_000]
            mixed = await asyncio.gather(*good[:100], *bad, *good[100:])
            return [*mixed[:100], *mixed[100 + len(bad) :]], mixed[100 : 100 + len(bad)]

    good, bad = asyncio.run(send_all())

    assert [answer.status_code for answer in good] == [200] * 200
    assert [answer.json()["predictions"][0]["class_id"] for answer in good] == [i % 10 for i in range(200)]
    assert all(400 <= answer.status_code < 500 for answer in bad)


def test_a_chunked_body_over_the_limit_is_cut_off(service: Service) -> None:
    def chunks() -> object:
        for _ in range(40):
            yield bytes(1_000_000)

    answer = service.client.post("/predict", content=chunks(), headers={"content-type": "image/png"})  # type: ignore[arg-type]

    assert answer.status_code == 413


def test_concurrent_requests_are_computed_together(service: Service) -> None:
    before = service.metric_at_rest("inference_batch_size_sum"), service.metric("inference_batch_size_count")

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: service.predict(pictures.row_png(i % 10)), range(400)))

    assert all(answer.status_code == 200 for answer in answers)
    images = service.wait_for_metric(before[0] + 400, "inference_batch_size_sum") - before[0]
    assert images / (service.metric("inference_batch_size_count") - before[1]) > 1


def test_metrics_count_across_http_processes(service: Service) -> None:
    assert len(service.processes("http")) == 2
    before = service.metric_at_rest("inference_requests_total", code="200", model="rows")

    for _ in range(40):  # a new connection each, so that both processes get some
        with httpx.Client(base_url=service.url) as client:
            client.post("/predict", content=PNG, headers={"content-type": "image/png"})

    assert service.metric_at_rest("inference_requests_total", code="200", model="rows") == before + 40


def test_refusals_are_counted_by_their_status(service: Service) -> None:
    before = service.metric_at_rest("inference_requests_total", code="400")

    service.predict(b"", "image/png")

    assert service.metric_at_rest("inference_requests_total", code="400") == before + 1


def test_the_probes_answer(service: Service) -> None:
    assert service.client.get("/livez").json() == {"status": "alive"}
    assert service.client.get("/readyz").json()["models"] == {"photos@1": True, "rows@1": True, "sign@1": True}
    assert service.client.get("/health").status_code == 200
    assert service.client.get("/startupz").json() == {"status": "started"}


def test_an_unknown_path_and_a_wrong_method_are_problems_too(service: Service) -> None:
    missing, wrong = service.client.get("/nope"), service.client.get("/predict")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["status"] == 404
    assert wrong.headers["allow"] == "POST"
    assert wrong.headers["content-type"] == "application/problem+json"


def test_a_request_keeps_the_id_that_it_came_with(service: Service) -> None:
    given = service.client.post("/predict", content=PNG, headers={"content-type": "image/png", "x-request-id": "abc"})
    made = [service.predict(PNG).headers["x-request-id"] for _ in range(2)]

    assert given.headers["x-request-id"] == "abc"
    assert made[0] != made[1]


def test_a_client_that_goes_away_in_mid_body_harms_nobody(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    time.sleep(0.2)

    assert service.predict(PNG).status_code == 200
    assert "Traceback" not in service.text
