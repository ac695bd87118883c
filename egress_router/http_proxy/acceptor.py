"""The proxy's ports: the data plane accepts there, and hands over the clients that it has admitted."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

from egress_router.http_proxy import replies
from egress_router.http_proxy.connection import ClientConnection
from egress_router.http_proxy.lingering_close import SILENCE, LingeringClose
from egress_router.http_proxy.request_info import Who
from egress_router.relay.buffered_socket import MAX_RECEIVED, BufferedSocket, nothing
from egress_router.relay.dataplane import Forwarding
from egress_router.service.connection_limiter import LIMITS, ConnectionLimit
from egress_router.tls.alert import Alert, fatal

if TYPE_CHECKING:
    from egress_router.http_proxy.known_connects import KnownConnect
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.news import Arrival, End
    from egress_router.service.connection_limiter import ConnectionLimiter

_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_HANDSHAKE: Final = b"\x16"  # the first byte of a TLS connection: RFC 8446 5.1
_HTTP: Final = 80
_OVER_LIMIT: Final = {
    ConnectionLimit.TOTAL: replies.CONNECTIONS_FULL,
    ConnectionLimit.PER_CLIENT: replies.CLIENT_FULL,
}


class TurnedAway:
    """Clients over a limit; up to `max_waiting` at a time are kept until they have read why."""

    def __init__(self, worker: WorkerState, limiter: ConnectionLimiter, max_waiting: int) -> None:
        self._worker = worker
        self._limiter = limiter
        self._max_waiting = max_waiting
        self._waiting: set[LingeringClose] = set()

    def add(self, sock: socket.socket, who: Who, limit: ConnectionLimit, *, in_tls: bool) -> None:
        """Tell a client which limit it has reached: by HTTP, or by a TLS alert."""
        self._limiter.refused(limit)
        worker, reply = self._worker, _OVER_LIMIT[limit]
        worker.accounting.refused(who, 0 if in_tls else reply.status, reply.reason)
        answer = fatal(Alert.INTERNAL_ERROR) if in_tls else reply.encoded(worker.date())
        if len(self._waiting) >= self._max_waiting:
            with contextlib.suppress(OSError):  # a client that sends its request later may see a reset
                sock.send(answer)
                sock.recv(MAX_RECEIVED)
            sock.close()
            return
        stream = BufferedSocket(sock, worker.poller, nothing)
        closing = LingeringClose(worker, stream, answer, SILENCE, lambda: self._waiting.discard(closing))
        self._waiting.add(closing)

    def close(self) -> None:
        """Close all clients that are still kept."""
        for closing in list(self._waiting):
            closing.close()


class Acceptor(Forwarding):
    """One port on which the data plane accepts; a transparent one has the `origin_port` of its requests."""

    __slots__ = ("_family", "_origin_port", "_port", "_turned_away", "_worker")

    def __init__(
        self,
        worker: WorkerState,
        turned_away: TurnedAway,
        port: int,
        origin_port: int | None,
        family: socket.AddressFamily,
    ) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self._worker = worker
        self._turned_away = turned_away
        self._port = port
        self._origin_port = origin_port
        self._family = family

    def accepted(self, arrival: Arrival) -> None:
        """Serve a client."""
        who = self._worker.accounting.accepted(Who(*arrival.client, self._port))
        sock = self._socket(arrival.descriptor)
        connection = ClientConnection(self._worker, sock, who, arrival, self, self._origin_port)
        self._worker.connections.add(connection)
        if arrival.known is None:
            connection.read_head()
        else:
            known: KnownConnect = arrival.known.line  # type: ignore[assignment] # as given to `know`
            connection.go_on((known, known.dialled(arrival.known)))

    def ended(self, end: End) -> None:
        """Tell a client that it is over a limit; without memory, only close."""
        sock = self._socket(end.given)
        if end.reason in LIMITS:
            who = Who(end.client, end.identity.client_port, self._port)
            in_tls = self._origin_port is not None and _speaks_tls(sock, self._origin_port)
            self._turned_away.add(sock, who, LIMITS[end.reason], in_tls=in_tls)
        else:
            sock.close()

    def _socket(self, descriptor: int) -> socket.socket:
        return socket.socket(self._family, _STREAM, 0, descriptor)


def _speaks_tls(sock: socket.socket, origin_port: int) -> bool:
    """Say whether a client of a transparent port speaks TLS; if it has sent nothing, the port decides."""
    try:
        return sock.recv(1, socket.MSG_PEEK) == _HANDSHAKE
    except BlockingIOError:
        return origin_port != _HTTP
    except OSError:
        return False
