"""What a batch goes through on its way to a GPU and back, on a fake of it; `test_on_gpu.py` has a real one."""

from __future__ import annotations

import contextlib
import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import service.model.model
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.model import autotune, cuda, torchscript
from service.model.cuda import Pipeline, sizes_to_capture
from service.model.model import DeviceFailedError, Model, UnfitModelError
from tests.registries import BrightestRow, artifact_of, publish
from tests.service.engine.test_worker import Running
from tests.service.model.fake_cuda import FakeDevice, FakeEvent

CUDA = torch.device("cuda")


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def pipeline(device: FakeDevice) -> Pipeline:
    return Pipeline(torchscript.load(artifact_of(BrightestRow()), torch.device("cpu")), device)


@pytest.fixture
def model(tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that believes to be on a GPU."""
    monkeypatch.setattr(service.model.model, "_pipeline", lambda network, _: Pipeline(network, device))
    manifest = publish(tmp_path)
    model = Model(manifest, Registry(tmp_path).artifact(manifest))
    model.device = CUDA
    return model


def rows(*class_ids: int) -> Tensor:
    """An image for each of `class_ids`."""
    pixels = torch.zeros(len(class_ids), 1, 28, 28, dtype=torch.uint8)
    for place, class_id in enumerate(class_ids):
        pixels[place, 0, class_id] = 255
    return pixels


def classes(batch: cuda.Batch) -> list[int]:
    return [int(class_id) for class_id in batch.logits().argmax(axis=1)]


def test_nothing_is_computed_before_its_weights_and_its_inputs_are_there(
    pipeline: Pipeline, device: FakeDevice
) -> None:
    pipeline.start(rows(3))
    at_first = list(device.told)
    pipeline.start(rows(3)).logits()

    assert at_first == [
        "compute: wait for loading",
        "compute: record event 2",  # what the memory of the inputs was used for before
        "copy: wait for event 2",
        "copy: record event 1",
        "compute: wait for event 1",
        "compute: record event 2",
    ]


def test_batches_that_are_underway_together_share_no_memory(pipeline: Pipeline) -> None:
    batches = [pipeline.start(rows(*class_ids)) for class_ids in ([1, 2], [3, 4], [5, 6])]

    assert [classes(batch) for batch in batches] == [[1, 2], [3, 4], [5, 6]]


def test_logits_stay_as_they_are_when_their_memory_is_used_again(pipeline: Pipeline, device: FakeDevice) -> None:
    first = pipeline.start(rows(1, 2)).logits()
    told = len(device.told)

    second = pipeline.start(rows(7, 8)).logits()

    assert first.argmax(axis=1).tolist() == [1, 2]
    assert second.argmax(axis=1).tolist() == [7, 8]
    assert len(device.told) == told + 3, "no memory is asked for again"


def test_inputs_may_be_changed_once_their_batch_is_started(pipeline: Pipeline) -> None:
    inputs = rows(4)

    batch = pipeline.start(inputs)
    inputs.zero_()

    assert classes(batch) == [4]


@pytest.mark.parametrize("size", [1, 3, 8, 300])
def test_a_batch_of_any_size_finds_room(pipeline: Pipeline, size: int) -> None:
    pipeline.start(rows(1, 2)).logits()

    class_ids = [place % 10 for place in range(size)]

    assert classes(pipeline.start(rows(*class_ids))) == class_ids


def test_a_batch_that_cannot_be_computed_leaves_its_memory_to_nobody(pipeline: Pipeline, device: FakeDevice) -> None:
    underway = pipeline.start(rows(5))

    with pytest.raises(RuntimeError):
        pipeline.start(torch.zeros(1, 2, dtype=torch.uint8))
    device.error = RuntimeError("CUDA error: unspecified launch failure")
    with pytest.raises(RuntimeError, match="launch failure"):
        underway.logits()
    device.error = None

    assert [classes(pipeline.start(rows(n))) for n in (1, 2)] == [[1], [2]]


def test_what_the_device_says_of_a_batch_decides_whether_it_is_ready(pipeline: Pipeline, device: FakeDevice) -> None:
    batch = pipeline.start(rows(1))

    device.is_idle = False
    before = batch.ready()
    device.is_idle = True

    assert (before, batch.ready()) == (False, True)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (7, [1, 2, 4, 7]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_graphs_are_captured_for_a_few_sizes_up_to_the_largest(largest: int, sizes: list[int]) -> None:
    assert sizes_to_capture(largest) == sizes


def test_no_batch_is_filled_up_by_eight_inputs_or_more_unless_they_are_less_than_an_eighth_of_it() -> None:
    sizes = sizes_to_capture(65_536)

    assert all(after - before <= max(8, before / 8) for before, after in itertools.pairwise(sizes))
    assert len(sizes) < 100


def test_with_graphs_every_size_up_to_the_largest_gives_the_same_logits_and_a_larger_one_does_without(
    pipeline: Pipeline, device: FakeDevice
) -> None:
    batches = [rows(*(place % 10 for place in range(size))) for size in (20, 1, 3, 9, 12, 16, 21)]
    with torch.inference_mode():
        plain = [pipeline.start(batch).logits() for batch in batches]
        pipeline.capture(rows(0), 20)
        replayed = [pipeline.start(batch).logits() for batch in batches]

    assert [np.array_equal(one, other) for one, other in zip(plain, replayed, strict=True)] == [True] * len(batches)
    assert (device.captured, device.replayed) == (6, 6)


def test_an_error_that_stays_is_the_devices_and_any_other_the_batchs(model: Model, device: FakeDevice) -> None:
    errors = []
    for text in ("CUDA error: an illegal memory access was encountered", "CUDA out of memory. Tried to allocate"):
        device.error = RuntimeError(text)
        pending = model.start(rows(1))
        with pytest.raises((RuntimeError, DeviceFailedError)) as caught:
            pending.outputs()
        errors.append(type(caught.value))

    assert errors == [DeviceFailedError, RuntimeError]


def test_a_batch_on_a_broken_device_is_ready_to_say_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = model.start(rows(1))

    def fail(_: FakeEvent) -> bool:
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(FakeEvent, "query", fail)

    assert pending.ready()


def measured(**milliseconds: tuple[float, ...]) -> autotune.Measure:
    """A stand-in for the clock: what batches of 1, 8 and 64 take, `plain` and by `graphs`."""

    def measure(model: Model, size: int) -> float:
        return milliseconds["graphs" if model.form.graphs else "plain"][(1, 8, 64).index(size)]

    return measure


@pytest.mark.parametrize(
    ("graphs", "kept"),
    [
        ((0.02, 0.02, 0.3), True),
        ((0.1, 0.1, 0.4), False),
        ((0.095, 0.095, 0.38), False),
        ((0.05, 0.08, 0.4), True),
        ((0.2, 0.2, 0.4), False),
    ],
    ids=["faster", "as fast", "hardly faster", "faster where it is small", "slower"],
)
def test_graphs_serve_only_where_they_are_faster(
    model: Model, device: FakeDevice, graphs: tuple[float, ...], kept: bool
) -> None:
    autotune.graph(model, 64, measured(plain=(0.1, 0.1, 0.4), graphs=graphs))
    before = device.replayed
    outputs = model.run(rows(1, 2, 3))

    assert model.form.graphs is kept
    assert ("by graphs" in str(model.form)) is kept
    assert (device.replayed > before) is kept
    assert outputs.class_ids.tolist() == [1, 2, 3]


def test_a_version_that_cannot_be_captured_serves_without_graphs_and_it_is_said(
    model: Model, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    device.capture_error = RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING, "service.model.autotune"):
        autotune.graph(model, 64, measured(plain=(1.0, 1.0, 1.0)))

    assert not model.form.graphs
    assert model.run(rows(6)).class_ids.tolist() == [6]
    assert "rows@1 serves without graphs: rows@1: it must compute by graphs. Given: CUDA error" in caplog.text


def test_graphs_that_give_other_logits_than_the_golden_samples_do_not_serve(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda._Graphs, "__call__", lambda self, inputs: self._logits[: len(inputs)])

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

    autotune.graph(model, 64, measured())

    assert not model.form.graphs
    with pytest.raises(UnfitModelError, match=r"graphs need a CUDA device\. Given: cpu"):
        model.capture(64)


@pytest.mark.parametrize("is_idle", [True, False], ids=["ready at once", "to be waited for"])
def test_a_worker_answers_what_the_device_computes(
    model: Model, device: FakeDevice, tmp_path: Path, is_idle: bool
) -> None:
    model.capture(8)
    device.is_idle = is_idle

    with contextlib.closing(Running([model], str(tmp_path / "worker.sock"), 8, 3600)) as worker:
        client = worker.connect()
        for block_id in range(30):
            client.send(block_id, rows(block_id % 10, 3).numpy().tobytes(), size=2)
        answers = [client.answer(block_id).class_ids for block_id in range(30)]

    assert answers == [[block_id % 10, 3] for block_id in range(30)]
    assert client.announced[0].form.graphs
