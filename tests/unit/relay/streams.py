"""What tests do with the sockets at both ends of a tunnel."""

from __future__ import annotations

import contextlib
import socket
import struct

from tests.waiting import WAIT_SECONDS

MIB = 1 << 20


def read_exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        assert part, f"ended after {len(parts)} of {count} bytes"
        parts += part
    return bytes(parts)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def stuff(sock: socket.socket) -> int:
    """Send until the socket takes no more; return how many bytes went."""
    sock.settimeout(0.3)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += sock.send(b"x" * 65536)
    sock.settimeout(WAIT_SECONDS)
    return sent
