"""A non-blocking socket in the poller: what was read too far, what could not be written yet, and edges."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from egress_router.relay.tunnel import reset

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from egress_router.relay.poller import Poller

# The most that one read takes: malloc serves this from its heap. Above MMAP_THRESHOLD every read would map
# and unmap memory.
MAX_RECEIVED = 65_536
# Receives in one go: more would keep the other connections waiting.
TURNS = 16
_GONE = select.EPOLLHUP | select.EPOLLERR
_TROUBLE = select.EPOLLRDHUP | select.EPOLLPRI | _GONE
_READABLE = select.EPOLLIN | _TROUBLE


def nothing() -> None:
    """Do nothing: what a closed socket calls."""


class BufferedSocket:
    """One end of a connection.

    `on_ready` is called when there may be something to read, or what is left in `out` may be written. `lost`
    says that the peer reset the connection, `gone` that neither direction is open any more, `readable` that a
    read is worth trying: the poller reported something that has not been read.
    """

    __slots__ = ("_most", "_poller", "_trouble", "_watched", "gone", "held", "lost", "on_ready", "out",
        "readable", "sock")  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        on_ready: Callable[[], None],
        most: int = MAX_RECEIVED,
    ) -> None:
        """Take over a socket; one read takes `most` bytes."""
        self.sock = sock
        self._poller = poller
        self._watched = False
        self._trouble = False
        self._most = most
        self.on_ready = on_ready
        self.readable = False
        self.held = b""
        self.out = b""
        self.lost = False
        self.gone = False

    def watch(self) -> None:
        """Have `on_ready` called from now on; the poller reports at once what is already so."""
        if not self._watched:
            self._watched = True
            self._poller.add(self.sock.fileno(), self._ready)

    def watch_anew(self) -> None:
        """Watch, and have reported once more what is already so."""
        self._watched = True
        self._poller.add(self.sock.fileno(), self._ready)

    def receive(self) -> bytes | None:
        """Return bytes, those held back first; b"" at the end of the stream; None while there are none."""
        if self.held:
            data = self.held
            self.held = b""
            return data
        if not self.readable:
            return None
        try:
            data = self.sock.recv(self._most)
        except BlockingIOError:
            self.readable = False
            return None
        except OSError:
            self.lost = True
            return b""
        # A short read drained the socket (epoll(7), edge-triggered), unless the end came with the same edge.
        if len(data) < self._most and not self._trouble:
            self.readable = False
        return data

    def send(self, data: bytes) -> None:
        """Write what the socket takes now, and keep the rest in `out`."""
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            self.out = data
            return
        except OSError:
            self.lost = True
            return
        if sent < len(data):
            self.out = data[sent:]

    def flush(self) -> bool:
        """Go on writing what was kept; say whether nothing is left."""
        data = self.out
        self.out = b""
        self.send(data)
        return not self.out

    def again(self) -> None:
        """Have `on_ready` called in the loop's next turn: this one took long enough."""
        self._poller.again(self.sock.fileno())

    def close(self) -> None:
        """Close in order; what is kept in `out` is dropped."""
        self._poller.forget(self.sock.fileno())
        self.on_ready = nothing  # its owner and this refer to each other
        self.sock.close()

    def abort(self) -> None:
        """Close so that the peer sees a reset: its message is cut short."""
        self._poller.forget(self.sock.fileno())
        self.on_ready = nothing
        reset(self.sock)

    def _ready(self, events: int) -> None:
        if events & _READABLE:
            self.readable = True
            if events & _TROUBLE:
                self._trouble = True
                self.gone = bool(events & _GONE)
        if self.readable or self.out:
            self.on_ready()
