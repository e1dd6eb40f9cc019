"""A worker takes its device as LitServe gives it, one for each GPU."""

from __future__ import annotations

import contextlib
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from litserve.loops.loops import inference_worker

from service.model import torchscript
from service.processes.server import Server
from service.settings import Settings
from tests.registries import publish


def start_workers(registry: str, folder: Path, gpus: int) -> None:
    """Run each worker up to where it would load a version, in a process that believes in so many GPUs.

    `folder` gets a file for each, with the devices that it would load on.
    """

    def record(artifact: bytes, device: torch.device, form: str = "published") -> None:
        del artifact, form
        with (folder / f"worker-{number}.txt").open("a") as file:
            file.write(f"{device.type} {device.index}\n")
        raise torchscript.TorchScriptError("there is no GPU here")

    torch.cuda.device_count = lambda: gpus
    torchscript.load = record  # type: ignore[assignment] # the forms are literals there
    for number in range(gpus):
        run_dir = folder / f"run-{number}"  # of its own, because a version that one worker refused is not tried again
        run_dir.mkdir()
        server = Server(Settings(registry=registry, device="cuda"), run_dir)
        assert len(server.devices) == gpus
        arguments: tuple[Any, ...] = (
            server.lit_api,
            server.devices[number],
            number,
            None,
            None,
            {},
            server._callback_runner,
            False,
        )
        with contextlib.suppress(SystemExit):  # because no version can serve
            inference_worker(*arguments)


@pytest.mark.parametrize("gpus", [1, 3])
def test_each_gpu_has_a_worker_that_loads_versions_on_it(tmp_path: Path, gpus: int) -> None:
    registry = tmp_path / "registry"
    publish(registry)

    process = multiprocessing.get_context("spawn").Process(
        target=start_workers, args=(str(registry), tmp_path, gpus), name="workers"
    )
    process.start()
    process.join(60)

    assert process.exitcode == 0
    seen = {file.name: set(file.read_text().splitlines()) for file in tmp_path.glob("worker-*.txt")}
    assert seen == {f"worker-{number}.txt": {f"cuda {number}"} for number in range(gpus)}
