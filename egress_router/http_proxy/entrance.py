"""The proxy's port: the data plane accepts there, and hands over what it has let in."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from egress_router.http_proxy.request_info import Who
from egress_router.relay.dataplane import Forwarding
from egress_router.service.connection_limiter import LIMITS, ConnectionLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.relay.dataplane import End, Pair

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class Entrance(Forwarding):
    """The proxy's port, on which the data plane accepts."""

    __slots__ = ("_accept", "_family", "_port", "_turn_away")

    def __init__(
        self,
        port: int,
        family: socket.AddressFamily,
        accept: Callable[[socket.socket, Who, Pair, bytes], None],
        turn_away: Callable[[socket.socket, Who, ConnectionLimit], None],
    ) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self._port = port
        self._family = family
        self._accept = accept
        self._turn_away = turn_away

    def accepted(self, client: tuple[str, int], place: Pair, descriptor: int, early: bytes) -> None:
        """Serve a client."""
        self._accept(self._socket(descriptor), Who(*client, self._port), place, early)

    def ended(self, end: End) -> None:
        """Tell a client that it is over a limit; without memory for it there are no words."""
        sock = self._socket(end.given)
        if end.reason in LIMITS:
            self._turn_away(sock, Who(end.client, end.identity.client_port, self._port), LIMITS[end.reason])
        else:
            sock.close()

    def _socket(self, descriptor: int) -> socket.socket:
        return socket.socket(self._family, _STREAM, 0, descriptor)
