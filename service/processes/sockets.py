"""The sockets that the service listens on. Knows nothing about what is said over them."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterable

BACKLOG = 4096


def listen_tcp(host: str, port: int) -> socket.socket:
    """Bind and listen on an address; port 0 takes a free one.

    Raises:
        OSError: the address cannot be bound.
    """
    return socket.create_server((host, port), family=_family(host), backlog=BACKLOG)


def listen_unix(path: str) -> socket.socket:
    """Bind and listen on a Unix socket, which must not exist yet."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(512)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Bind a socket that reserves the port for gRPC, whose server takes an address and no socket.

    Raises:
        OSError: the port is taken.
        ValueError: grpcio or protobuf is not installed.
    """
    if not all(map(importlib.util.find_spec, ("grpc", "google", "google.protobuf"))):
        raise ValueError("SERVICE_GRPC_PORT needs grpcio and protobuf. Given: neither or one. pip install argmax[grpc]")
    family = _family(host)
    # SO_REUSEPORT lets two services share a port without an error; binding once without it finds the other one.
    socket.create_server((host, port), family=family).close()
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


def url(listener: socket.socket) -> str:
    """Return the URL of a listening TCP socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close this process's copies of the sockets."""
    for each in sockets:
        each.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
