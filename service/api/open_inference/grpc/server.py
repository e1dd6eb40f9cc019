"""The gRPC server of one process. Knows nothing about what its methods do."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio

from service.settings import Settings

logger = logging.getLogger(__name__)

_CALLS = 4096
"""Calls that may be under way. One that waits with its message unread takes up to 90 KB."""

_CONNECTION_SECONDS = 300.0
"""After which clients open another connection, as gRPC's do by themselves."""

_LAST_CALLS_SECONDS = 30.0
"""How long calls may then go on, besides the time to receive and to answer one; after it the connection is closed. A
client that takes no answers keeps their calls under way until then: nothing else ends them."""


async def serve(handler: Any, settings: Settings, stop: asyncio.Event) -> None:
    """Answer calls until `stop` is set, then finish those that were accepted.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    options = [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        # A stream without a place takes no more than its first window, 64 KiB: widened by what the network bears, 200
        # streams took 2.4 GB.
        ("grpc.http2.bdp_probe", 0),
        # None but the identity: 20 KB become 15 MB before the service sees them.
        ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression),
        ("grpc.max_connection_age_ms", round(1000 * _CONNECTION_SECONDS)),
        ("grpc.max_connection_age_grace_ms", round(1000 * (2 * settings.timeout_seconds + _LAST_CALLS_SECONDS))),
        ("grpc.so_reuseport", 1),  # the supervisor holds the port for whoever replaces this process
    ]
    server = grpc.aio.server(handlers=[handler], options=options, maximum_concurrent_rpcs=_CALLS)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    server.add_insecure_port(address)
    await server.start()
    logger.info("listening for gRPC on %s", address)
    await stop.wait()
    await server.stop(settings.shutdown_seconds)
