"""A process that computes one image after another of one version, and may die of any of them.

It loads the verified artifact on the CPU, as published. Knows nothing about where images come from.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn, Protocol

import numpy as np
import torch

from service.contract.manifest import ModelManifest
from service.contract.registry import RegistryError
from service.engine.messages import FAILED
from service.model.model import DeviceFailedError, Model, UnfitModelError
from service.model.outputs import Outputs
from service.rollout.confinement import confine_trial
from service.rollout.sandbox import close_all_but, limit_this_process, memory_of

IMAGE = struct.Struct("<if")  # class id and confidence; the logits follow, and the score if there is one
READY, ANSWER, REFUSAL = b"r", b"a", b"n"
"""The first byte of each report."""

Fetch = Callable[[ModelManifest], bytes]
"""Returns a version's artifact, verified; raises RegistryError."""


class Child(Protocol):
    """A process that computes images of one version."""

    def fileno(self) -> int: ...

    def send(self, image: bytes) -> None:
        """Hand over the next image."""

    def receive(self) -> bytes | None:
        """Return the next report: ready, an answer or a refusal; None when the process is gone."""

    def memory(self) -> int:
        """Return how many more bytes the process holds than at its start."""

    def kill(self) -> str:
        """End the process, if it has not ended; return how it ended."""


class ForkedChild:
    """A `Child` that is forked from this process, which must have a single thread."""

    def __init__(self, fetch: Fetch, seconds: float, manifest: ModelManifest) -> None:
        self._connection, theirs = multiprocessing.get_context("fork").Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _compute(fetch, seconds, manifest, theirs)
        theirs.close()
        self._initial = memory_of(self._pid)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, image: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died, which `receive` says
            self._connection.send_bytes(image)

    def receive(self) -> bytes | None:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def memory(self) -> int:
        return memory_of(self._pid) - self._initial

    def kill(self) -> str:
        os.kill(self._pid, signal.SIGKILL)  # not waited for yet, so it is still there, if only by name
        _, status = os.waitpid(self._pid, 0)
        self._connection.close()
        code = os.waitstatus_to_exitcode(status)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _compute(fetch: Fetch, seconds: float, manifest: ModelManifest, connection: Connection) -> NoReturn:
    try:
        # Copies of the retrier's sockets: with one of them open, nobody would notice the retrier's death.
        close_all_but(connection)
        limit_this_process(gently=False)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        torch.set_num_threads(1)
        try:
            artifact = fetch(manifest)
            confine_trial()
            model = Model(manifest, artifact)
        except (RegistryError, UnfitModelError, OSError) as error:
            connection.send_bytes(REFUSAL + str(error).encode())
            os._exit(0)
        connection.send_bytes(READY)
        while True:
            image = connection.recv_bytes()
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds)  # ends this process even if the retrier is gone
            connection.send_bytes(ANSWER + _result(model, image))
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (EOFError, OSError):
        pass  # nobody asks any more
    finally:
        os._exit(0)


def _result(model: Model, image: bytes) -> bytes:
    try:
        outputs = model.run(model.batch(bytearray(image)))
    except (RuntimeError, DeviceFailedError):
        outputs = model.failed()
    return pack_image(outputs)


def pack_image(outputs: Outputs) -> bytes:
    """Pack the outputs of one image."""
    class_id = max(int(outputs.class_ids[0]), FAILED)
    values = (outputs.logits[0], outputs.scores[:1])
    packed = b"".join(value.astype(np.float32).tobytes() for value in values)
    return IMAGE.pack(class_id, float(outputs.confidences[0])) + packed
