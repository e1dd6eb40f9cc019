"""A process with a retrier, as a service has one: a test's own process has threads and must not be forked."""

from __future__ import annotations

import functools
import os
import socket
from multiprocessing.connection import Connection

import torch

from service.contract.registry import Registry
from service.rollout.retrier import Limits, Retrier
from service.rollout.retrier_child import ForkedChild


def main(connection: Connection, listener: socket.socket, registry: str, limits: Limits) -> None:
    """Run a retrier until `connection` ends; it gets the identity of each version that ends a process."""
    torch.set_num_threads(1)
    fetch = Registry(registry).artifact
    connection.send(os.getpid())
    Retrier(
        listener,
        connection.fileno(),
        functools.partial(ForkedChild, fetch, limits.seconds),
        limits=limits,
        on_crash=connection.send,
        beat=lambda _now: None,
    ).run()
