"""Finding out that a quiet peer has vanished."""

from __future__ import annotations

import socket
from typing import Final

# Seconds without a byte before it begins: a connection that is busy or over by then needs none of this.
QUIET: Final = 30.0
# Seconds. A vanished peer is noticed after 30 + 4 * 15, and the probes come more often than the five minutes
# or so after which firewalls on the way forget a quiet connection.
_IDLE, _INTERVAL, _PROBES = 30, 15, 4


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe a quiet peer (tcp(7))."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
