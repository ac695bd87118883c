"""Whether the egress interface has a carrier; the kernel reports a change at once. A thin shell."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Self

from egress_router.errors import RefusedError

_NETLINK_ROUTE, _RTMGRP_LINK = 0, 1
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40


class LinkMonitor:
    """A socket on which the kernel reports changes of interfaces."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._was_there = True
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _RTMGRP_LINK))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def is_lost(self) -> bool:
        """Return True, once, when the interface has lost its carrier.

        Raises:
            RefusedError: the interface is gone.
        """
        # The content of the messages is not used: some may be lost when the socket's buffer is full.
        with contextlib.suppress(OSError):
            self._socket.recv(65536)
        is_there = self._is_there()
        was_there, self._was_there = self._was_there, is_there
        return was_there and not is_there

    def _is_there(self) -> bool:
        request = struct.pack("16sH14x", self._interface.encode(), 0)
        try:
            answer = fcntl.ioctl(self._socket.fileno(), _SIOCGIFFLAGS, request)
        except OSError:
            raise RefusedError(
                f"{self._interface} is gone", "find out what deleted it, and start the router again"
            ) from None
        return bool(struct.unpack_from("H", answer, 16)[0] & _IFF_RUNNING)
