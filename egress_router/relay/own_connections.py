"""Connections that the data plane made itself and that come back to it; it recognises them (plane/own.c).

A CONNECT to the proxy's own Service address comes back as a new connection, and a CONNECT inside it as the
next one.
"""

from __future__ import annotations

import socket
from typing import Final

_TCP_SAVE_SYN: Final = 27  # linux/tcp.h; Python has no name for it
LOOP_TURNS: Final = 2  # a connection that came back this often is a loop; once may be chance


def save_first_packets(listener: socket.socket) -> None:
    """Have the kernel keep the first packet of each connection until it is read, or the connection closed."""
    listener.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)
