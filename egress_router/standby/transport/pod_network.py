"""The pod network as a second channel between the routers. A thin shell."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from egress_router import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress

_SO_MARK = 36
_MAX_A_TURN = 64  # datagrams
_log = log.get("standby")


class PodNetwork:
    """A datagram socket on the pod's own address; without an address it sends and receives nothing."""

    def __init__(self, address: IPAddress | None, port: int, mark: int) -> None:
        """Open it; `mark` makes the kernel use the routes of the pod's first interface."""
        self.address = address
        self.port = port
        self._socket: socket.socket | None = None
        if address is None:
            return
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            sock.bind((str(address), port))
        except OSError as error:
            sock.close()
            _log.warning("no second way to the peer", address=address, port=port, error=error.strerror)
        else:
            self._socket = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def fileno(self) -> int | None:
        """Return the descriptor to wait for; None without a socket."""
        return None if self._socket is None else self._socket.fileno()

    def send(self, data: bytes, address: IPAddress, port: int) -> None:
        """Send a datagram; the protocol finds out whether it arrives."""
        if self._socket is not None and self.address is not None and address.version == self.address.version:
            with contextlib.suppress(OSError):
                self._socket.sendto(data, (str(address), port))

    def receive(self) -> Iterator[tuple[bytes, IPAddress]]:
        """Yield received datagrams and their senders, at most 64."""
        for _ in range(_MAX_A_TURN if self._socket is not None else 0):
            try:
                data, sender = self._socket.recvfrom(2048) if self._socket is not None else (b"", ("",))
            except OSError:
                return
            yield data, ip_address(sender[0])
