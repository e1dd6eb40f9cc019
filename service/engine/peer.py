"""A process's end of a connection to an HTTP process, in a selector, which never waits for the other side."""

from __future__ import annotations

import selectors
import socket
from typing import Self

from service.engine import messages
from service.engine.messages import Message

_RECEIVE_BYTES = 1 << 20


class Peer:
    """The connection to one HTTP process, which `selector` watches."""

    def __init__(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._selector = selector
        self._selector.register(connection, selectors.EVENT_READ, self)
        self._reader = messages.MessageReader()
        self._unsent = bytearray()

    @classmethod
    def accept(cls, listener: socket.socket, selector: selectors.BaseSelector) -> Self | None:
        """Accept the next connection; None if the other side is gone again."""
        try:
            connection, _ = listener.accept()
        except OSError:
            return None
        return cls(connection, selector)

    def receive(self) -> list[Message] | None:
        """Return the messages that have arrived; None when the other side is gone, and then this one is closed too."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(self._socket)
            self.close()
            return None
        return list(self._reader.feed(data))

    def send(self, data: bytes = b"") -> None:
        """Send `data` after what is still unsent, as much as the socket takes now."""
        self._unsent += data
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # the other side is gone; the next receive says so
        if self._socket.fileno() >= 0:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
            self._selector.modify(self._socket, wanted, self)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
