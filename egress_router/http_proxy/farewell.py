"""Last words to a client: closing on unread bytes would reset the connection, and the words would be lost."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.http_proxy.wire import Wire
    from egress_router.relay.deadlines import Deadlines

_SECONDS = 2.0
_MOST_DISCARDED = 1_048_576  # bytes of a request that nobody wants any more


class Farewell:
    """Sends an answer, ends the stream, and closes as soon as the client has, or does not for too long.

    `on_closed` is called once, never from inside `__init__`.
    """

    __slots__ = ("_deadline", "_left", "_on_closed", "_open", "_wire")

    def __init__(
        self, wire: Wire, deadlines: Deadlines, answer: bytes, on_closed: Callable[[], None]
    ) -> None:
        """Take over the wire; `answer` may be empty where everything has been said."""
        self._wire = wire
        self._left = _MOST_DISCARDED
        self._open = True
        self._on_closed = on_closed
        self._deadline = deadlines.add(_SECONDS, self.close)
        wire.held = b""
        wire.on_ready = self._drain
        if answer:
            wire.send(answer)
        if not wire.out:
            self._end_stream()
        wire.watch_anew()

    def close(self) -> None:
        """Close now."""
        if self._open:
            self._open = False
            self._deadline.cancel()
            self._wire.close()
            self._on_closed()

    def _drain(self) -> None:
        if self._wire.out and self._wire.flush():
            self._end_stream()
        while self._left > 0:
            data = self._wire.receive()
            if data is None:
                return
            if not data:
                break
            self._left -= len(data)
        self.close()

    def _end_stream(self) -> None:
        with contextlib.suppress(OSError):  # the client has reset the connection; reading will tell
            self._wire.sock.shutdown(socket.SHUT_WR)
