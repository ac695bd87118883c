"""A non-blocking socket in the poller, with bytes that were read too early or could not be written yet."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from egress_router.relay.tunnel import reset

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from egress_router.relay.poller import Poller

# Bytes that one read takes at most. malloc serves this size from its heap; above MMAP_THRESHOLD every read
# would map and unmap memory.
MAX_RECEIVED = 65_536
# Reads of one connection in a row: with more, the other connections would wait.
TURNS = 16
_GONE = select.EPOLLHUP | select.EPOLLERR
_TROUBLE = select.EPOLLRDHUP | select.EPOLLPRI | _GONE
_READABLE = select.EPOLLIN | _TROUBLE


def nothing() -> None:
    """Do nothing: the callback of a closed socket."""


class BufferedSocket:
    """One end of a connection.

    `on_ready` is called when there may be something to read, or when the rest in `out` may be written.
    `lost`: the peer has reset the connection. `gone`: both directions are closed. `readable`: a read is worth
    trying, because the poller reported something that was not read yet.
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
        """Have `on_ready` called from now on; the poller reports at once what is ready already."""
        if not self._watched:
            self._watched = True
            self._poller.add(self.sock.fileno(), self._ready)

    def watch_anew(self) -> None:
        """Watch, and have the poller report again what is ready already."""
        self._watched = True
        self._poller.add(self.sock.fileno(), self._ready)

    def receive(self) -> bytes | None:
        """Return bytes, those in `held` first; b"" at the end of the stream; None if there are none now."""
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
        # A short read has drained the socket (epoll(7), edge-triggered), unless the end came with its edge.
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
        """Write what was kept; return whether nothing is left."""
        data = self.out
        self.out = b""
        self.send(data)
        return not self.out

    def again(self) -> None:
        """Have `on_ready` called again in the next turn of the loop, so that others come first."""
        self._poller.again(self.sock.fileno())

    def close(self) -> None:
        """Close with an orderly end; what is kept in `out` is dropped."""
        self._poller.forget(self.sock.fileno())
        self.on_ready = nothing  # breaks the reference cycle with its owner
        self.sock.close()

    def abort(self) -> None:
        """Close with a reset: the peer shall see that its message was cut short."""
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
