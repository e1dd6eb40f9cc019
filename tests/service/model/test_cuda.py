"""What a batch goes through on its way to a GPU and back, on a fake of it; `test_on_gpu.py` has a real one."""

from __future__ import annotations

import contextlib
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import service.model.model
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.engine.worker import Timing
from service.model import autotune, cuda, torchscript
from service.model.cuda import Pipeline, sizes_to_capture
from service.model.model import DeviceFailedError, Model, UnfitModelError
from tests.registries import BrightestRow, artifact_of, publish
from tests.service.engine.test_worker import Running, WatchedModel
from tests.service.model.fake_cuda import FakeDevice, FakeEvent, fake_torch_cuda, pipeline_on

CUDA = torch.device("cuda")


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def pipeline(device: FakeDevice) -> Pipeline:
    return pipeline_on(device, torchscript.load(artifact_of(BrightestRow()), torch.device("cpu")))


@pytest.fixture
def model(tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> WatchedModel:
    """A model that believes to be on a GPU."""
    monkeypatch.setattr(service.model.model, "_pipeline", lambda network, _: pipeline_on(device, network))
    manifest = publish(tmp_path)
    model = WatchedModel(manifest, Registry(tmp_path).artifact(manifest))
    model.device = CUDA
    return model


def rows(*class_ids: int) -> Tensor:
    """An image for each of `class_ids`."""
    pixels = torch.zeros(len(class_ids), 1, 28, 28, dtype=torch.uint8)
    for place, class_id in enumerate(class_ids):
        pixels[place, 0, class_id] = 255
    return pixels


def slot_of(batch: cuda.Batch) -> cuda._Slot:
    assert isinstance(batch, cuda._Underway)
    return batch._slot


def path_of(model: Model) -> str:
    assert model._pipeline is not None
    return model._pipeline.path


def classes(batch: cuda.Batch) -> list[int]:
    return [int(class_id) for class_id in batch.logits().argmax(axis=1)]


@pytest.fixture(params=["pageable", "pinned", "graphs"])
def any_path(request: pytest.FixtureRequest, pipeline: Pipeline) -> Pipeline:
    """A pipeline that computes by each path in turn, batches of up to 4 by graphs."""
    pipeline.start(rows(0)).logits()  # as a model's golden sample is computed first
    if request.param == "graphs":
        pipeline.capture(rows(0), 4)
    else:
        pipeline.use(request.param)
    return pipeline


class CountOperations(TorchDispatchMode):
    """Counts the operations on tensors, except views, which cost no work."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        if not func.is_view:
            self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_by_graphs_a_batch_is_one_copy_one_launch_and_one_mark(
    pipeline: Pipeline, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "capture", lambda *_: lambda: device.told.append("replay"))
    pipeline.capture(rows(0), 8)
    device.told.clear()
    inputs = rows(1, 2, 3)

    with CountOperations() as operations:
        batch = pipeline.start(inputs)
        batch.ready()
        batch.logits()

    assert operations.names == ["aten.copy_"]
    assert device.told == ["replay", "record", "query", "query"]


def test_batches_that_are_underway_together_share_no_memory(any_path: Pipeline) -> None:
    batches = [any_path.start(rows(*class_ids)) for class_ids in ([1, 2], [3, 4], [5, 6])]

    assert [classes(batch) for batch in batches] == [[1, 2], [3, 4], [5, 6]]


def test_logits_stay_as_they_are_when_their_memory_is_used_again(any_path: Pipeline, device: FakeDevice) -> None:
    first = any_path.start(rows(1, 2)).logits()
    pinned = device.told.count("pin")

    second = any_path.start(rows(7, 8)).logits()

    assert first.argmax(axis=1).tolist() == [1, 2]
    assert second.argmax(axis=1).tolist() == [7, 8]
    assert device.told.count("pin") == pinned, "no memory is asked for again"


def test_inputs_may_be_changed_once_their_batch_is_started(any_path: Pipeline) -> None:
    inputs = rows(4)

    batch = any_path.start(inputs)
    inputs.zero_()

    assert classes(batch) == [4]


@pytest.mark.parametrize("size", [1, 3, 4, 300])
def test_a_batch_of_any_size_finds_room(any_path: Pipeline, size: int) -> None:
    any_path.start(rows(1, 2)).logits()

    class_ids = [place % 10 for place in range(size)]

    assert classes(any_path.start(rows(*class_ids))) == class_ids


def test_a_batch_that_cannot_be_computed_does_not_disturb_others(any_path: Pipeline) -> None:
    underway = any_path.start(rows(5))

    for _ in range(3):
        with pytest.raises(RuntimeError):
            any_path.start(torch.zeros(1, 2, dtype=torch.uint8))

    assert [classes(underway), *(classes(any_path.start(rows(n))) for n in (1, 2))] == [[5], [1], [2]]


@pytest.mark.parametrize("any_path", ["pinned", "graphs"], indirect=True)
def test_memory_that_a_failed_batch_used_is_not_used_again(any_path: Pipeline, device: FakeDevice) -> None:
    underway = any_path.start(rows(5))
    device.error, device.is_idle = RuntimeError("CUDA error: unspecified launch failure"), False

    with pytest.raises(RuntimeError, match="launch failure"):
        underway.logits()
    device.error, device.is_idle = None, True

    pinned = any_path._graphs.free if any_path._graphs else any_path._free
    assert slot_of(underway) not in pinned


def test_what_the_device_says_of_a_batch_decides_whether_it_is_ready(pipeline: Pipeline, device: FakeDevice) -> None:
    pipeline.capture(rows(0), 1)
    batch = pipeline.start(rows(1))

    device.is_idle = False
    before = batch.ready()
    device.is_idle = True

    assert (before, batch.ready()) == (False, True)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (7, [1, 2, 4, 7]),
        (20, [1, 2, 4, 8, 16, 20]),
        (128, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]),
    ],
)
def test_graphs_are_captured_for_a_few_sizes_up_to_the_largest(largest: int, sizes: list[int]) -> None:
    assert sizes_to_capture(largest) == sizes


def test_from_sixteen_on_less_than_a_third_of_a_batch_is_filled_up() -> None:
    sizes = [size for size in sizes_to_capture(65_536) if size >= 16]

    assert all((after - before - 1) / after < 1 / 3 for before, after in itertools.pairwise(sizes))


def test_with_graphs_every_size_gives_the_same_logits_and_a_larger_one_does_without(
    pipeline: Pipeline, device: FakeDevice
) -> None:
    batches = [rows(*(place % 10 for place in range(size))) for size in (20, 1, 3, 9, 12, 16, 21)]
    with torch.inference_mode():
        plain = [pipeline.start(batch).logits() for batch in batches]
        pipeline.capture(rows(0), 20)
        replayed = [pipeline.start(batch).logits() for batch in batches]

    assert [np.array_equal(one, other) for one, other in zip(plain, replayed, strict=True)] == [True] * len(batches)
    assert (device.captured, device.told.count("replay")) == (2 * 6, 6)


def test_on_fake_tensors_no_path_mixes_host_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told = fake_torch_cuda(monkeypatch)
    with FakeTensorMode():
        layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, device="cuda:0"))

        def network(images: Tensor) -> Tensor:
            logits: Tensor = layers(images.float())
            return logits

        pipeline = Pipeline(network, cuda.Device(torch.device("cuda", 0)))
        inputs = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)

        pageable = pipeline.start(inputs)
        pipeline.use("pinned")
        pinned = pipeline.start(inputs)
        pipeline.capture(inputs, 4)
        told.clear()
        graphed = pipeline.start(inputs)

        assert isinstance(pageable, cuda._Computed)
        brought = [pageable._logits, slot_of(pinned).logits[:3], slot_of(graphed).logits[:3]]
        assert [(str(logits.device), logits.shape) for logits in brought] == [("cpu", (3, 10))] * 3
        assert told == ["replay on compute", "record on compute"]
        with pytest.raises(RuntimeError, match="device"):  # worded differently by torch 2.11
            layers(inputs.float())


def test_a_thread_computes_after_what_it_loaded_and_stays_on_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    told = fake_torch_cuda(monkeypatch)
    device = cuda.Device(torch.device("cuda", 1))

    for _ in range(2):
        device.enter()
    first = list(told)
    with ThreadPoolExecutor(1) as other:
        other.submit(device.enter).result()

    assert first == ["set cuda:1", "compute waits for default"]
    assert told[2:] == ["set cuda:1", "compute waits for compute"], "every thread enters the stream once"


def test_an_error_that_stays_is_the_devices_and_any_other_the_batchs(model: Model, device: FakeDevice) -> None:
    errors = []
    for text in ("CUDA error: an illegal memory access was encountered", "CUDA out of memory. Tried to allocate"):
        device.error, device.is_idle = RuntimeError(text), False
        pending = model.start(rows(1))
        with pytest.raises((RuntimeError, DeviceFailedError)) as caught:
            pending.outputs()
        errors.append(type(caught.value))

    assert errors == [DeviceFailedError, RuntimeError]


def test_a_batch_on_a_broken_device_is_ready_to_say_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.capture(1)
    pending = model.start(rows(1))

    def fail(_: FakeEvent) -> bool:
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(FakeEvent, "query", fail)

    assert pending.ready()


def measured(**milliseconds: tuple[float, float]) -> autotune.Measure:
    """Stand in for the clock: what batches of 1 and 64 take by each path."""

    def measure(model: Model, size: int) -> float:
        return milliseconds[path_of(model)][(1, 64).index(size)]

    return measure


@pytest.mark.parametrize(
    ("pageable", "pinned", "graphs", "expected"),
    [
        ((0.10, 0.40), (0.20, 0.40), (0.02, 0.30), "graphs"),
        ((0.10, 0.40), (0.20, 0.40), (0.10, 0.40), "pageable"),
        ((0.10, 0.40), (0.20, 0.40), (0.095, 0.38), "pageable"),
        ((0.10, 0.40), (0.11, 0.20), (0.11, 0.20), "pinned"),
        ((0.10, 0.40), (0.10, 0.38), (0.20, 0.40), "pageable"),
    ],
    ids=["graphs are faster", "graphs are no faster", "graphs are hardly faster", "pinned is", "pinned hardly is"],
)
def test_the_path_that_measures_fastest_serves_and_pageable_unless_another_one_is_clearly_faster(
    model: Model,
    pageable: tuple[float, float],
    pinned: tuple[float, float],
    graphs: tuple[float, float],
    expected: str,
) -> None:
    autotune.choose_path(model, 64, measured(pageable=pageable, pinned=pinned, graphs=graphs))

    assert path_of(model) == expected
    assert model.form.graphs is (expected == "graphs")
    assert ("by graphs" in str(model.form)) is (expected == "graphs")
    assert model.run(rows(1, 2, 3)).class_ids.tolist() == [1, 2, 3]


def test_paths_are_measured_by_what_they_really_take(model: Model, device: FakeDevice) -> None:
    autotune.choose_path(model, 8)

    assert device.told.count("replay") >= 2 * 20
    assert model.run(rows(4)).class_ids.tolist() == [4]


def test_a_version_that_cannot_be_captured_serves_without_graphs_and_it_is_said(
    model: Model, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    device.capture_error = RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING, "service.model.autotune"):
        autotune.choose_path(model, 64, measured(pageable=(1.0, 1.0), pinned=(1.0, 1.0)))

    assert not model.form.graphs
    assert model.run(rows(6)).class_ids.tolist() == [6]
    assert "rows@1 serves without graphs: rows@1: it must compute by graphs. Given: CUDA error" in caplog.text


def test_graphs_that_give_other_logits_than_the_golden_samples_do_not_serve(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda._Graphs, "replay", lambda *_: None)

    with pytest.raises(UnfitModelError, match=r"it must compute by graphs\. Given: rows@1: golden logits"):
        model.capture(8)

    assert model.run(rows(6)).class_ids.tolist() == [6]


def test_a_device_that_a_capture_breaks_is_no_fault_of_the_version(model: Model, device: FakeDevice) -> None:
    device.capture_error = RuntimeError("CUDA error: an illegal memory access was encountered")
    device.error = device.capture_error

    with pytest.raises(DeviceFailedError):
        model.capture(8)


def test_on_the_cpu_there_are_no_graphs(tmp_path: Path) -> None:
    manifest: ModelManifest = publish(tmp_path)
    model = Model(manifest, Registry(tmp_path).artifact(manifest))

    autotune.choose_path(model, 64, measured())

    assert not model.form.graphs
    with pytest.raises(UnfitModelError, match=r"graphs need a CUDA device\. Given: cpu"):
        model.capture(64)


@pytest.mark.parametrize("is_idle", [True, False], ids=["ready at once", "to be waited for"])
def test_a_worker_answers_what_the_device_computes(
    model: WatchedModel, device: FakeDevice, tmp_path: Path, is_idle: bool
) -> None:
    model.capture(8)
    device.is_idle = is_idle

    with contextlib.closing(Running([model], str(tmp_path / "worker.sock"), 8, 3600, Timing())) as worker:
        client = worker.connect()
        for block_id in range(30):
            client.send(block_id, rows(block_id % 10, 3).numpy().tobytes(), size=2)
        answers = [client.answer(block_id).class_ids for block_id in range(30)]

    assert answers == [[block_id % 10, 3] for block_id in range(30)]
    assert client.forms[0].graphs
