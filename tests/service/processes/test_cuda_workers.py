"""A worker takes its device as LitServe gives it, one for each GPU."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from litserve.loops.loops import inference_worker

from service.model import torchscript
from service.processes.server import Server
from service.settings import Settings
from tests.preloaded import FORKS
from tests.registries import publish


def start_workers(registry: str, folder: Path, gpus: int) -> None:
    """Run each worker up to where it would load a version, in a process that believes in so many GPUs.

    A file in `folder` gets a line for each device that one would load on, among what they log.
    """

    def record(artifact: bytes, device: torch.device, form: str = "published") -> None:
        del artifact, form
        os.write(2, f"{number} {device.type} {device.index}\n".encode())  # open already, as neither may open a file
        raise torchscript.TorchScriptError("there is no GPU here")

    os.dup2(os.open(folder / "seen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.cuda.device_count = lambda: gpus
    torch.cuda.synchronize = lambda device=None: None
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
        # In a process of its own, because what a worker gives up it has not got back for the next one.
        worker = multiprocessing.get_context("fork").Process(target=inference_worker, args=arguments)
        worker.start()
        worker.join()  # it ends, because no version can serve


@pytest.mark.parametrize("gpus", [1, 3])
def test_each_gpu_has_a_worker_that_loads_versions_on_it(tmp_path: Path, gpus: int) -> None:
    registry = tmp_path / "registry"
    publish(registry)

    process = FORKS.Process(target=start_workers, args=(str(registry), tmp_path, gpus), name="workers")
    process.start()
    process.join(60)

    assert process.exitcode == 0
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert {line for line in seen if " cuda " in line and len(line) < 20} == {f"{n} cuda {n}" for n in range(gpus)}
