"""The Open Inference Protocol over gRPC, as the public tritonclient package speaks it to a real service."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from service.api.keys import make
from service.contract.manifest import FeatureInput
from service.problems import BadRequest
from service.processes.sockets import reserve
from service.settings import Settings
from tests import pictures
from tests.ports import free_port
from tests.registries import SCORED, FirstFeature, ScoredRows, Slow, publish
from tests.running import Service, serving
from tests.waiting import wait_until

pytest.importorskip("grpc", reason="needs grpcio and protobuf; pip install argmax[grpc]")
triton = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient")

from service.api.open_inference.grpc.servicer import Servicer  # noqa: E402

KEY, LINE = make("ci", frozenset({"predict", "feedback"}))
ADMIN_KEY, ADMIN_LINE = make("admin", frozenset({"admin"}))
MAX_BODY_BYTES = 100_000


class Calling:
    """A service that speaks gRPC, and its address there."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.address = f"127.0.0.1:{port}"
        self.port = port

    def listener(self) -> psutil.Process:
        """The living process that answers gRPC."""
        [found] = [
            child
            for child in psutil.Process(self.service.process.pid).children()
            if any(c.laddr.port == self.port and c.status == "LISTEN" for c in child.net_connections("tcp"))
        ]
        return found


class Bearer(triton.InferenceServerClientPlugin):  # type: ignore[misc, name-defined]
    """Shows a key with every call."""

    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = f"Bearer {KEY}"


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calling]:
    root = tmp_path_factory.mktemp("grpc")
    publish(root / "models", "rows")
    publish(root / "models", "slow", Slow(1600))
    publish(root / "models", "scored", ScoredRows(), **SCORED)
    publish(root / "models", "sign", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    keys = root / "keys"
    keys.write_text(f"{LINE}\n{ADMIN_LINE}\n")
    port = free_port()
    options = ("--default-model", "rows", "--http-processes", "1", "--grpc-port", str(port))
    limits = ("--max-batch-size", "4", "--max-body-bytes", str(MAX_BODY_BYTES), "--api-keys-file", str(keys))
    with serving(root / "models", *options, *limits, "--feedback-predictions", "100") as service:
        service.client.headers["x-api-key"] = KEY
        service.wait_for_log("listening for gRPC on ")
        yield Calling(service, port)


@pytest.fixture(scope="module")
def client(calling: Calling) -> Iterator[Any]:
    with triton.InferenceServerClient(calling.address) as connected:
        connected.register_plugin(Bearer())
        wait_until(connected.is_server_ready, interval=0.05)
        yield connected


def rows(*classes: int) -> np.ndarray:
    """uint8 [N, 1, 28, 28]: an image of each class."""
    return np.stack([np.asarray(pictures.row(class_id))[None] for class_id in classes])


def tensor(name: str, values: np.ndarray, datatype: str) -> Any:
    found = triton.InferInput(name, list(values.shape), datatype)
    return found.set_data_from_numpy(values)


def images(*classes: int) -> Any:
    return tensor("images", rows(*classes), "UINT8")


def typed(name: str, datatype: str, shape: list[int], **contents: list[Any]) -> Any:
    """A request for `rows` whose elements are not raw bytes."""
    request = triton.service_pb2.ModelInferRequest(model_name="rows" if name != "features" else "sign")
    request.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return request


def ask(calling: Calling, request: Any) -> Any:
    """What the method itself says: tritonclient's own calls always send raw bytes."""
    with triton.grpc.insecure_channel(calling.address) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, metadata=(("x-api-key", KEY),), timeout=30)


def test_an_administrator_unloads_and_loads_a_model_and_nobody_else(calling: Calling, client: Any) -> None:
    as_admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    with pytest.raises(triton.InferenceServerException, match="scope admin"):
        client.unload_model("sign")
    with triton.InferenceServerClient(calling.address) as admin:
        admin.unload_model("sign", headers=as_admin)
        index = admin.get_model_repository_index(headers=as_admin).models
        with pytest.raises(triton.InferenceServerException, match="unloaded sign@1: an administrator"):
            client.get_model_metadata("sign")
        admin.load_model("sign", headers=as_admin)
        with pytest.raises(triton.InferenceServerException, match="parameters must be empty"):
            admin.load_model("sign", headers=as_admin, config="{}")

    assert [(one.state, one.reason) for one in index if one.name == "sign"] == [
        ("UNAVAILABLE", "an administrator unloaded the model")
    ]
    assert client.is_model_ready("sign")


def test_what_was_predicted_over_grpc_gets_feedback_over_http(calling: Calling, client: Any) -> None:
    client.infer("rows", [images(3, 6)], headers={"x-request-id": "over-grpc"})

    truth = {"request_id": "over-grpc", "index": 1, "label": "6"}
    told = calling.service.client.post("/feedback", json=truth).json()

    assert (told["prediction"], told["outcome"]) == ("6", "right")


def test_the_statistics_count_what_was_inferred(client: Any) -> None:
    tensor = triton.InferInput("features", [1, 2], "FP32")
    client.infer("sign", [tensor.set_data_from_numpy(np.ones((1, 2), np.float32))])

    def successes() -> int:
        (found,) = client.get_inference_statistics("sign").model_stats
        return int(found.inference_stats.success.count)

    assert wait_until(successes) >= 1
    assert {one.name for one in client.get_inference_statistics().model_stats} == {"rows", "scored", "sign", "slow"}


def test_the_server_says_what_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "argmax"
    assert "model_configuration" in metadata.extensions


def test_models_are_described_as_over_rest(calling: Calling, client: Any) -> None:
    rest = calling.service.client

    assert client.is_model_ready("rows")
    assert client.is_model_ready("rows", "1")
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.is_model_ready("nope")
    described = rest.get("/v2/models/rows").json()
    del described["parameters"]  # for which the protocol's message has no field; the configuration's has
    assert client.get_model_metadata("rows", as_json=True) == {
        **described,
        "inputs": [{**one, "shape": list(map(str, one["shape"]))} for one in described["inputs"]],
        "outputs": [{**one, "shape": list(map(str, one["shape"]))} for one in described["outputs"]],
    }
    config, expected = client.get_model_config("sign", "1").config, rest.get("/v2/models/sign/config").json()
    assert (config.name, config.platform, config.max_batch_size) == ("sign", "pytorch_torchscript", 1024)
    assert [(one.name, list(one.dims)) for one in config.input] == [("features", [2])]
    form = {name: parameter.string_value for name, parameter in config.parameters.items()}
    assert form == {name: one["string_value"] for name, one in expected["parameters"].items()}
    assert form["form"] == "published"
    index = client.get_model_repository_index().models
    assert {one.name: one.state for one in index} == dict.fromkeys(("rows", "scored", "sign", "slow"), "READY")


@pytest.mark.parametrize("name", ["rows", "sign", "scored"])
def test_a_configuration_has_the_inputs_and_outputs_that_rest_tells(calling: Calling, client: Any, name: str) -> None:
    config = client.get_model_config(name, as_json=True)["config"]
    expected = calling.service.client.get(f"/v2/models/{name}/config").json()

    for listed in ("input", "output"):
        assert [(one["name"], one["data_type"]) for one in config[listed]] == [
            (one["name"], one["data_type"]) for one in expected[listed]
        ]


def test_images_give_the_numbers_that_rest_gives(calling: Calling, client: Any) -> None:
    result = client.infer("rows", [images(4, 7)], request_id="mine")

    document = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [2, 1, 28, 28]}]}
    document["inputs"][0]["data"] = rows(4, 7).ravel().tolist()
    rest = calling.service.client.post("/v2/models/rows/infer", json=document).json()["outputs"]
    assert (result.get_response().id, result.get_response().model_version) == ("mine", "1")
    assert result.as_numpy("class_ids").tolist() == [4, 7]
    for output in rest:
        numbers = result.as_numpy(output["name"])
        assert list(numbers.shape) == output["shape"]
        assert numbers.ravel().tolist() == pytest.approx(output["data"], rel=1e-6)


def test_encoded_files_features_and_classifications_go_through(client: Any) -> None:
    files = np.array([pictures.row_png(3), pictures.row_png(9)], Any)
    features = np.array([[2.0, 0.0], [-2.0, 0.0]], np.float32)

    of_files = client.infer("rows", [tensor("files", files, "BYTES")])
    of_features = client.infer("sign", [tensor("features", features, "FP32")])
    wanted = triton.InferRequestedOutput("probabilities", class_count=1)
    classified = client.infer("sign", [tensor("features", features, "FP32")], outputs=[wanted])

    assert of_files.as_numpy("class_ids").tolist() == [3, 9]
    assert of_features.as_numpy("class_ids").tolist() == [1, 0]
    names = [value.rpartition(b":")[2] for value in classified.as_numpy("probabilities").ravel()]
    assert names == [b"positive", b"negative"]


def test_elements_may_come_in_the_field_of_their_datatype(calling: Calling) -> None:
    of_images = ask(calling, typed("images", "UINT8", [1, 1, 28, 28], uint_contents=rows(6).ravel().tolist()))
    of_files = ask(calling, typed("files", "BYTES", [1], bytes_contents=[pictures.row_png(5)]))
    of_features = ask(calling, typed("features", "FP32", [1, 2], fp32_contents=[2.0, 0.0]))

    first = [np.frombuffer(one.raw_output_contents[0], "<i4").tolist() for one in (of_images, of_files, of_features)]
    assert first == [[6], [5], [1]]


@pytest.mark.parametrize(
    ("model", "given", "code", "words"),
    [
        ("nope", images(1), "NOT_FOUND", "nope"),
        ("rows", tensor("images", rows(1)[:, :, :5], "UINT8"), "INVALID_ARGUMENT", "of shape [-1, 1, 28, 28]"),
        ("rows", tensor("pictures", rows(1), "UINT8"), "INVALID_ARGUMENT", "must be one of ['images', 'files']"),
        ("rows", tensor("x" * 9000, rows(1), "UINT8"), "INVALID_ARGUMENT", "length <= 1000"),
        ("rows", tensor("files", np.array([b"hello"], Any), "BYTES"), "INVALID_ARGUMENT", "look like text"),
        ("sign", tensor("features", np.zeros((1025, 2), np.float32), "FP32"), "RESOURCE_EXHAUSTED", "at most 1,024"),
        ("rows", images(*range(10), *[0] * 150), "RESOURCE_EXHAUSTED", str(MAX_BODY_BYTES)),
    ],
)
def test_a_wrong_request_is_refused_with_our_words(client: Any, model: str, given: Any, code: str, words: str) -> None:
    with pytest.raises(triton.InferenceServerException) as refused:
        client.infer(model, [given])

    assert refused.value.status() == f"StatusCode.{code}"
    assert words in refused.value.message()


def test_contents_that_contradict_themselves_are_refused(calling: Calling) -> None:
    both = typed("images", "UINT8", [1, 1, 28, 28], uint_contents=[0] * 784)
    both.raw_input_contents.append(bytes(784))
    more = typed("images", "UINT8", [1, 1, 28, 28])
    more.raw_input_contents.extend([bytes(784)] * 2)
    nothing = triton.service_pb2.ModelInferRequest(model_name="rows")

    outputs = triton.service_pb2.ModelInferRequest.InferRequestedOutputTensor
    twice = typed("images", "UINT8", [1, 1, 28, 28], uint_contents=[0] * 784)
    twice.outputs.extend([outputs(name="logits")] * 2)
    many = typed("images", "UINT8", [1, 1, 28, 28], uint_contents=[0] * 784)
    many.outputs.extend([outputs(name="logits")] * 1500)
    wrong = (
        (both, "Given: both"),
        (more, "the bytes of the one input. Given: 2"),
        (nothing, "inputs must be"),
        (twice, "outputs must name each output at most once"),
        (many, "outputs must be at most 5. Given: 1500"),
    )

    for request, words in wrong:
        with pytest.raises(triton.grpc.RpcError) as refused:
            ask(calling, request)
        assert refused.value.code() is triton.grpc.StatusCode.INVALID_ARGUMENT
        assert words in refused.value.details()


def test_without_a_key_nothing_but_the_probes_is_answered(calling: Calling) -> None:
    with triton.InferenceServerClient(calling.address) as anonymous:
        assert anonymous.is_server_live()
        assert anonymous.is_server_ready()
        for headers, code in ((None, "UNAUTHENTICATED"), ({"x-api-key": ADMIN_KEY}, "PERMISSION_DENIED")):
            calls: tuple[Callable[..., Any], ...] = (
                partial(anonymous.get_model_metadata, "rows"),
                lambda **more: anonymous.infer("nope", [images(1)], **more),
            )
            for call in calls:
                with pytest.raises(triton.InferenceServerException) as refused:
                    call(headers=headers)
                assert refused.value.status() == f"StatusCode.{code}"


@pytest.mark.parametrize(
    ("key", "code"), [(None, "UNAUTHENTICATED"), (KEY, "INVALID_ARGUMENT")], ids=["no key", "a key"]
)
def test_a_message_that_does_not_parse_is_refused_after_its_key_was_looked_at(
    calling: Calling, key: str | None, code: str
) -> None:
    with triton.grpc.insecure_channel(calling.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        with pytest.raises(triton.grpc.RpcError) as refused:
            call(b"\xff" * 50, metadata=(("x-api-key", key),) if key else ())

    assert refused.value.code().name == code
    assert "Traceback" not in calling.service.text


def test_a_compressed_message_is_refused_in_words(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="'gzip' is disabled") as refused:
        client.infer("rows", [images(1)], compression_algorithm="gzip")

    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_caller_without_a_key_is_refused_before_its_message_comes(calling: Calling) -> None:
    released = threading.Event()

    def messages() -> Iterator[bytes]:
        released.wait(30)
        yield b""

    with triton.grpc.insecure_channel(calling.address) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        try:
            with pytest.raises(triton.grpc.RpcError) as refused:
                call(messages(), timeout=20)
        finally:
            released.set()

    assert refused.value.code() is triton.grpc.StatusCode.UNAUTHENTICATED


def test_a_call_without_a_message_is_refused_and_counted(calling: Calling) -> None:
    before = calling.service.metric_at_rest("inference_request_failures_total", reason="bad_input")
    with triton.grpc.insecure_channel(calling.address) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        with pytest.raises(triton.grpc.RpcError, match="a call must have a message") as refused:
            call(iter(()), timeout=20, metadata=(("x-api-key", KEY),))

    assert refused.value.code() is triton.grpc.StatusCode.INVALID_ARGUMENT
    after = calling.service.wait_for_metric(before + 1, "inference_request_failures_total", reason="bad_input")
    assert after == before + 1


def test_a_refused_message_is_not_held_until_garbage_is_collected() -> None:
    class Held:
        pass

    class Context:
        def __init__(self) -> None:
            self.held_at_the_end = True

        def invocation_metadata(self) -> None:
            pass

        def time_remaining(self) -> None:
            pass

        def set_trailing_metadata(self, _: Any) -> None:
            pass

        async def read(self) -> bytes:
            return b"a message"

        async def abort(self, *_: Any) -> None:
            self.held_at_the_end = messages[0]() is not None
            raise triton.grpc.aio.AbortError

    async def refuse(held: Held, *_: Any) -> Any:
        problem = BadRequest("it is wrong")  # as `Exchange.fail` has it, under a name in a frame of the traceback
        raise problem

    async def answer() -> None:
        inference: Any = SimpleNamespace(dispatcher=None, settings=Settings())
        nothing: Any = None
        servicer = Servicer(nothing, inference, nothing, nothing, nothing, None, nothing)
        with pytest.raises(triton.grpc.aio.AbortError):
            await servicer._answer("/ModelInfer", refuse, parse, nothing, context)

    def parse(_: bytes) -> Held:
        held = Held()
        messages.append(weakref.ref(held))
        return held

    messages: list[Any] = []
    context = Context()
    gc.disable()
    try:
        asyncio.run(answer())
    finally:
        gc.enable()

    assert not context.held_at_the_end


def test_calls_are_counted_with_the_others(calling: Calling, client: Any) -> None:
    name, labels = "inference_requests_total", {"model": "sign", "code": "200"}
    before = calling.service.metric_at_rest(name, **labels)

    client.infer("sign", [tensor("features", np.zeros((1, 2), np.float32), "FP32")])

    assert calling.service.wait_for_metric(before + 1, name, **labels) == before + 1


@pytest.mark.parametrize("leave", ["deadline", "cancel"])
def test_who_leaves_is_not_waited_for(calling: Calling, client: Any, leave: str) -> None:
    # What it is counted as after a deadline depends on whose clock is ahead, so both are.
    before = calling.service.metric_at_rest("inference_request_failures_total", model="slow")
    heard: concurrent.futures.Future[Any] = concurrent.futures.Future()

    call = client.async_infer(
        "slow",
        [images(1)],
        lambda result, error: heard.set_result(error),
        client_timeout=0.2 if leave == "deadline" else None,
    )
    if leave == "cancel":
        assert calling.service.wait_for_metric(1, "inference_in_flight") >= 1
        call.cancel()

    expected = {"deadline": "DEADLINE_EXCEEDED", "cancel": "CANCELLED"}[leave]
    assert heard.result(30).status() == f"StatusCode.{expected}"
    after = calling.service.wait_for_metric(before + 1, "inference_request_failures_total", model="slow")
    assert after == before + 1


def test_a_killed_grpc_process_is_replaced(calling: Calling, client: Any) -> None:
    calling.listener().kill()

    calling.service.wait_for_log("gRPC process .* ended with code -9")
    calling.service.wait_for_log("(?s)ended with code -9.*listening for gRPC on ")
    with triton.InferenceServerClient(calling.address) as again:
        again.register_plugin(Bearer())
        assert again.infer("rows", [images(8)]).as_numpy("class_ids").tolist() == [8]


def test_a_port_that_is_taken_is_named_although_grpc_would_share_it() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match=str(port)):
            reserve("127.0.0.1", port)


def test_a_signal_finishes_the_calls_that_were_accepted(calling: Calling, client: Any) -> None:
    # The last test here, for it ends the service that all share.
    service = calling.service
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.infer, "slow", [images(class_id)]) for class_id in (2, 5)]
        assert service.wait_for_metric(2, "inference_in_flight") == 2
        code = service.stop()

    assert [answer.result().as_numpy("class_ids").tolist() for answer in answers] == [[2], [5]]
    assert code == 0
    assert "Traceback" not in service.text
