"""A real GPU gives what the CPU gives, by every path to it and through the whole service."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.contract.variants import Form
from service.model import autotune
from service.model.model import Model
from tests.conftest import ROOT
from tests.running import Service, serving

pytestmark = pytest.mark.gpu

LARGEST = 128
TOLERANCE = 0.01
"""Of logits of about 10, for noise; golden samples have to come out closer. A GPU adds in another order."""

Floats = npt.NDArray[np.float32]


@pytest.fixture(params=["neural_net", "mnist", "cifar10"])
def artifact(request: pytest.FixtureRequest) -> tuple[ModelManifest, bytes]:
    registry = Registry(str(ROOT / "models"))
    manifest = registry.manifest(request.param, registry.resolve(request.param))
    return manifest, registry.artifact(manifest)


@pytest.fixture
def model(artifact: tuple[ModelManifest, bytes]) -> Model:
    return Model(*artifact, Form(device="cuda:0"))


@pytest.fixture
def noise(model: Model) -> list[bytearray]:
    """For each size up to the largest a batch of its own."""
    chance = np.random.default_rng(0)
    sizes = range(1, LARGEST + 1)
    return [bytearray(chance.integers(0, 256, size * model.input_bytes, np.uint8).tobytes()) for size in sizes]


def blocking(model: Model, batches: list[bytearray]) -> list[Floats]:
    return [model.run(model.batch(batch)).logits for batch in batches]


def overlapped(model: Model, batches: list[bytearray]) -> list[Floats]:
    """As the worker does it: the next is started before the last is collected."""
    found: list[Floats] = []
    last = None
    for batch in batches:
        pending = model.start(model.batch(batch))
        if last:
            found.append(last.outputs().logits)
        last = pending
    return [*found, last.outputs().logits] if last else found


def close(some: list[Floats], others: list[Floats]) -> list[bool]:
    return [np.allclose(one, other, atol=TOLERANCE) for one, other in zip(some, others, strict=True)]


@pytest.mark.parametrize("path", ["pageable", "pinned", "graphs"])
def test_every_size_gives_the_logits_of_the_cpu_by_every_path(
    model: Model, artifact: tuple[ModelManifest, bytes], noise: list[bytearray], path: str
) -> None:
    on_cpu = blocking(Model(*artifact), noise)

    if path == "graphs":
        model.capture(LARGEST)
    else:
        model.use(cast("Literal['pageable', 'pinned']", path))
    found = blocking(model, noise), overlapped(model, noise)

    assert model.form.graphs is (path == "graphs")
    assert [close(logits, on_cpu) for logits in found] == [[True] * LARGEST] * 2


def test_two_models_whose_batches_alternate_do_not_disturb_each_other(
    model: Model, artifact: tuple[ModelManifest, bytes], noise: list[bytearray]
) -> None:
    other = Model(*artifact, Form(device="cuda:0"))
    expected = blocking(model, noise)
    model.capture(LARGEST)
    other.capture(LARGEST)

    pairs = [(model.start(model.batch(batch)), other.start(other.batch(batch))) for batch in noise]

    for pair in zip(*pairs, strict=True):
        assert close([pending.outputs().logits for pending in pair], expected) == [True] * LARGEST


def test_half_precision_by_graphs_gives_the_same_classes(
    artifact: tuple[ModelManifest, bytes], noise: list[bytearray]
) -> None:
    manifest, data = artifact
    if "float16" not in manifest.forms:
        pytest.skip(f"{manifest.name} was not proved in float16")
    golden = bytearray(manifest.golden.raw_inputs())
    plain = Model(manifest, data, Form(device="cuda:0"))
    half = Model(manifest, data, Form(name="float16", device="cuda:0"))
    half.capture(LARGEST)

    assert half.run(half.batch(golden)).class_ids.tolist() == plain.run(plain.batch(golden)).class_ids.tolist()


def test_a_thread_that_loaded_nothing_computes_too(model: Model, noise: list[bytearray]) -> None:
    expected = blocking(model, noise)
    model.capture(LARGEST)

    with ThreadPoolExecutor(1) as other:
        found = other.submit(overlapped, model, noise).result()

    assert close(found, expected) == [True] * LARGEST


def test_paths_are_measured_and_the_one_that_was_chosen_computes(model: Model) -> None:
    autotune.choose_path(model, LARGEST)
    model.warm_up(LARGEST)
    model.prove()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(ROOT / "models", "--device", "cuda", "--http-processes", "2") as running:
        yield running
        assert running.stop() == 0, running.text


def test_the_service_answers_golden_samples_from_the_gpu(service: Service) -> None:
    registry = Registry(str(ROOT / "models"))
    version = registry.resolve("neural_net")
    manifest = registry.manifest("neural_net", version)
    service.wait_for_log(rf"warmed neural_net@{version} \(\w+ on cuda:0(, by graphs)?\)")
    inputs = np.frombuffer(manifest.golden.raw_inputs(), np.uint8).reshape(-1, *manifest.input.shape)
    expected = np.array(manifest.golden.logits, np.float32).argmax(axis=1).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": inputs.shape, "data": inputs.ravel().tolist()}

    for _ in range(50):
        answer = service.client.post("/v2/models/neural_net/infer", json={"inputs": [tensor]})
        found = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert found["class_ids"] == expected


def test_a_worker_that_is_killed_on_the_gpu_comes_back(service: Service, tmp_path: Path) -> None:
    worker = service.processes("worker")[0]

    worker.kill()
    answer = service.client.post("/predict?model=simple_net", json={"features": [[0.5, -1.2]]})

    assert answer.status_code == 200
    assert torch.cuda.device_count() == len(service.processes("worker"))
