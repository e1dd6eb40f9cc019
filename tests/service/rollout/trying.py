"""A process with a prober, as a worker has one, and a way to ask it from a test, whose own process has threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from service.contract.manifest import ModelManifest
from service.model.model import Model, UnfitModelError
from service.rollout.sandbox import Limits, Sandbox


def load(manifest: ModelManifest, artifact: bytes) -> Model:
    """Load a version, or do what its recipe says."""
    act = ACTS.get(manifest.provenance.recipe)
    if act:
        act()
    model = Model(manifest, artifact)
    model.warm_up(2)
    return model


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(bytearray(b"x") * 2**20)


ACTS: dict[str, Callable[[], object]] = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "exit": lambda: os._exit(7),
    "sleep": lambda: time.sleep(3600),
    "eat": _eat,
    "raise": lambda: {}["nothing"],  # type: ignore[index]
}


def _prober() -> int:
    return next(iter(multiprocessing.active_children())).pid or 0


def main(connection: Connection, limits: Limits) -> None:
    torch.set_num_threads(1)
    sandbox = Sandbox(load, limits)
    connection.send(_prober())
    while (asked := connection.recv()) is not None:
        manifest, artifact, gently = asked
        try:
            if manifest.provenance.recipe == "lose the prober":
                os.kill(_prober(), signal.SIGKILL)
            sandbox.run(manifest, artifact, gently=gently)
            connection.send("")
        except UnfitModelError as error:
            connection.send(str(error))
