"""A process with a prober, as a worker has one, and a way to ask it from a test, whose own process has threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from service.contract.manifest import ModelManifest
from service.model.model import Model, UnfitModelError
from service.rollout.sandbox import Limits, Sandbox


def load(manifest: ModelManifest, artifact: bytes) -> Model:
    """Load a version, or do what its recipe says."""
    name, _, argument = manifest.provenance.recipe.partition(" ")
    if act := ACTS.get(name):
        act()
    if attempt := ATTEMPTS.get(name):
        attempt(argument)
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


def _connect(address: object, family: socket.AddressFamily) -> None:
    with socket.socket(family) as connection:
        connection.connect(address)  # type: ignore[arg-type]


ATTEMPTS: dict[str, Callable[[str], object]] = {
    "create": lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
    "overwrite": lambda path: os.open(path, os.O_WRONLY),
    "truncate": lambda path: os.truncate(path, 0),
    "remove": os.remove,
    "read": lambda path: os.open(path, os.O_RDONLY),
    "list": os.listdir,
    "tcp": lambda port: _connect(("127.0.0.1", int(port)), socket.AF_INET),
    "unix": lambda path: _connect(path, socket.AF_UNIX),
    "run": lambda path: os.execv(path, [path]),
    "signal": lambda _: os.kill(os.getppid(), 0),
    "spy": lambda _: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
    "descriptors": lambda _: {}[" ".join(path.name for path in Path("/proc/self/fd").iterdir())],  # type: ignore[index]
}
"""What code of an artifact might try; each succeeds in a process with all rights."""


def _prober() -> int:
    return next(iter(multiprocessing.active_children())).pid or 0


def main(connection: Connection, limits: Limits) -> None:
    torch.set_num_threads(1)
    sandbox = Sandbox(load, limits, torch.device("cpu"))
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
