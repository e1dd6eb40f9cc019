"""The gRPC server in this process, and a client that speaks HTTP/2 as no library does."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="needs grpcio and protobuf; pip install argmax[grpc]")

from service.api.open_inference.grpc import server  # noqa: E402
from service.settings import Settings  # noqa: E402
from tests.ports import free_port  # noqa: E402

HEADERS, SETTINGS = 1, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    return b"".join((b"\0", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode()))


def call_that_takes_no_answer(path: str) -> bytes:
    head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields = b"".join(header(*field) for field in (*head.items(), ("content-type", "application/grpc")))
    no_room = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 0))
    message = frame(0, END_STREAM, 1, bytes(5))
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_room + frame(HEADERS, END_HEADERS, 1, fields) + message


def test_a_client_that_takes_no_answer_does_not_keep_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CONNECTION_SECONDS", 0.2)
    monkeypatch.setattr(server, "_LAST_CALLS_SECONDS", 0.1)
    settings = Settings(grpc_port=free_port(), timeout_seconds=0.1)
    answered = asyncio.Event()

    async def answer(_message: bytes, _context: Any) -> bytes:
        answered.set()
        return bytes(1000)

    async def run() -> None:
        handlers = {"Ask": grpc.unary_unary_rpc_method_handler(answer)}
        handler, stop = grpc.method_handlers_generic_handler("test", handlers), asyncio.Event()
        serving = asyncio.create_task(server.serve(handler, settings, stop))
        async with asyncio.timeout(20):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(settings.host, settings.grpc_port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            writer.write(call_that_takes_no_answer("/test/Ask"))
            await answered.wait()

            while await reader.read(2**16):  # settings, pings, and that the connection will end; then its end
                pass

            writer.close()
            stop.set()
            await serving

    asyncio.run(run())
