"""A process's end of a connection to an HTTP process, which never waits for the other side."""

from __future__ import annotations

import socket

from service.engine import messages
from service.engine.messages import Message

_RECEIVE_BYTES = 1 << 20


class Peer:
    """The connection to one HTTP process."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._reader = messages.MessageReader()
        self._unsent = bytearray()

    def receive(self) -> list[Message] | None:
        """Return the messages that have arrived, or None when the other side is gone."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._reader.feed(data)) if data else None

    def send(self, data: bytes = b"") -> bool:
        """Send `data` after what is still unsent; False when some of it has to wait for the socket."""
        self._unsent += data
        try:
            del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # the other side is gone; the next receive says so
        return not self._unsent
