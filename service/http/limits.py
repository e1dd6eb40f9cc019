"""The limits on what a client may take of a connection, in bytes and in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of every connection of a process; sizes in bytes, times in seconds."""

    max_body_bytes: int
    max_bodies_bytes: int
    """Bodies that one process holds at a time, over all its connections."""

    max_target_bytes: int = 8 * 1024
    max_head_bytes: int = 32 * 1024  # nginx takes 32 KiB too, Node 16 KiB
    max_headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    idle_seconds: float = 75.0  # longer than most clients and proxies keep theirs, so that none meets a closing one
    write_seconds: float = 30.0
    """A client that takes nothing of its answer for this long is cut off."""

    linger_seconds: float = 2.0
    """How long what a refused client still sends is read, so that it gets to see its answer (RFC 9112, 9.6)."""
