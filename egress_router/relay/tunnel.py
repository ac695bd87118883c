"""A tunnel between two connected sockets: bytes both ways until both sides end, then one closing record."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from egress_router.relay.dataplane import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.relay.dataplane import DataPlane
    from egress_router.relay.news import End
    from egress_router.relay.poller import Poller

# SO_LINGER with a time of 0: close sends a reset instead of an orderly end (socket(7)).
_RESET = struct.pack("ii", 1, 0)


class CloseReason(enum.Enum):
    """Why a tunnel ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    IDLE = "idle"
    CLOSED = "closed"


# In the order of plane.h.
REASONS: Final = tuple(CloseReason)


class Closing(NamedTuple):
    """The end of a tunnel: its reason, bytes that went to the upstream and to the client, its lifetime.

    `first_byte` is the time from the connection to the upstream's first byte; None: there was none.
    """

    reason: CloseReason
    sent: int
    received: int
    seconds: float
    first_byte: float | None = None


def reset(sock: socket.socket) -> None:
    """Close a socket with a reset; what was not sent yet is dropped."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class Relay:
    """Hands pairs of sockets over to the data plane."""

    def __init__(self, plane: DataPlane, poller: Poller) -> None:
        """Relay for sockets that `poller` may be watching."""
        self._plane = plane
        self._poller = poller

    def start(  # noqa: PLR0913 (two sockets, what is sent first, and the client's admission)
        self,
        client: socket.socket,
        upstream: socket.socket,
        idle_seconds: float,
        on_close: Callable[[Closing], None],
        *,
        to_upstream: bytes = b"",
        to_client: bytes = b"",
        admission: Pair | None = None,
    ) -> Tunnel:
        """Take over two connected, non-blocking sockets and relay between them until both sides have ended.

        `to_upstream` and `to_client` are sent first. `idle_seconds` without a byte end the tunnel. Its end
        gives the client's `admission` back.
        `on_close` is called exactly once, never from inside `start`, when both sockets are closed.
        """
        tunnel = Tunnel(self._plane, on_close)
        for each in (client, upstream):
            self._poller.release(each.fileno())
        sockets = client.fileno(), upstream.fileno()
        self._plane.relay(tunnel, sockets, idle_seconds, (to_upstream, to_client), admission)
        client.detach()
        upstream.detach()
        return tunnel


class Tunnel(Pair):
    """Both directions of a connection; made by `Relay.start`.

    `sent` and `received` are the bytes that went to the upstream and to the client until now.
    """

    __slots__ = ("_on_close", "_plane")

    def __init__(self, plane: DataPlane, on_close: Callable[[Closing], None]) -> None:
        self._plane = plane
        self._on_close = on_close

    def close(self) -> None:
        """End the tunnel now; both peers see a reset, because their streams are cut short."""
        self._plane.cut(self)

    def ended(self, end: End) -> None:
        """Pass the closing record on."""
        on_close, self._on_close = self._on_close, _nothing  # breaks the reference cycle with its owner
        on_close(Closing(REASONS[end.reason], end.sent, end.received, end.seconds, end.first_byte))


def _nothing(_: Closing) -> None:
    """Do nothing: the callback of a tunnel that has ended."""
