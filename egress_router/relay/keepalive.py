"""What every relayed connection has set on its socket."""

from __future__ import annotations

import socket

# Seconds. A peer that vanished is noticed after 60 + 4 * 15, well inside the five minutes or more after
# which firewalls on the way forget a quiet connection.
_IDLE, _INTERVAL, _PROBES = 60, 15, 4


def keep_alive(sock: socket.socket) -> None:
    """Probe a quiet peer, and send small messages without Nagle's delay.

    Sockets that a listening socket accepts inherit all of this from it (tcp(7) on Linux).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
