"""The first bytes of a CONNECT tunnel, held back until the name in a ClientHello is judged.

A client that may CONNECT to an allowed host could ask for another one that the same address serves (domain
fronting). Where the server speaks first, or nobody does for a moment, there is no ClientHello to judge.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final, Protocol

from egress_router import log
from egress_router.grammar.address import printed
from egress_router.http_proxy.guard import guarded
from egress_router.http_proxy.http1.target import tls_target
from egress_router.relay.buffered_socket import TURNS, nothing
from egress_router.settings.http_proxy import SniMode
from egress_router.tls.client_hello import ClientHelloReader
from egress_router.tls.errors import TlsError, TlsFault
from egress_router.tls.server_name import SniMatch, compare, server_name

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket
    from egress_router.tls.client_hello import ClientHello

SILENT_SECONDS: Final = 0.25  # after which it is a protocol in which the server speaks first
_HTTPS: Final = 443
_log = log.get("http_proxy")


class Owner(Protocol):
    """The connection that becomes a tunnel; one of these is called, once."""

    def begin_tunnel(self, info: RequestInfo, upstream: socket.socket, to_upstream: bytes) -> None:
        """Relay, these bytes first."""

    def refuse_tunnel(self, info: RequestInfo, upstream: socket.socket, reason: str) -> None:
        """Close both sides; nothing of the client has reached the origin."""

    def fault(self, error: Exception) -> None:
        """End, because of something that must not happen."""


class TunnelStart:
    """Reads the client until its first bytes are judged; both sockets are open all that time."""

    __slots__ = ("_client_first", "_deadline", "_info", "_lists", "_owner", "_reader", "_upstream", "_wire",
        "_worker")  # fmt: skip

    def __init__(
        self,
        worker: WorkerState,
        owner: Owner,
        info: RequestInfo,
        wire: BufferedSocket,
        upstream: socket.socket,
    ) -> None:
        self._worker = worker
        self._owner: Owner | None = owner
        self._info = info
        self._wire = wire
        self._upstream = upstream
        self._reader = ClientHelloReader()
        self._lists = worker.access.lists
        self._client_first = worker.sni is SniMode.ENFORCE and info.target.port == _HTTPS
        seconds = worker.limits.idle_seconds if self._client_first else SILENT_SECONDS
        self._deadline = worker.deadlines.add(seconds, self._silent)

    def begin(self) -> None:
        """Read what is here, and watch both sides."""
        self._wire.on_ready = self.read
        self.read()
        if self._owner is not None and not self._client_first:
            self._worker.poller.add(self._upstream.fileno(), self._upstream_moved)

    @guarded
    def read(self) -> None:
        """Read on until the first bytes are judged."""
        if self._wire.gone or self._wire.lost:
            self._pass()  # the relay finds out what is left to do
            return
        for _ in range(TURNS):
            data = self._wire.receive()
            if data is None:
                break
            if not data:
                self._pass()
                return
            self._take(data)
            if self._owner is None:
                return
        else:
            self._wire.again()
        if self._wire.out:
            self._wire.flush()
        if self._reader.size:
            self._worker.held.hold(self, self._reader.size)
        self._wire.watch()

    @guarded
    def give_way(self) -> None:
        """End: all connections together hold too much, and this one most of it."""
        self._worker.accounting.limit("held_bytes")
        self._refuse("held_bytes")

    def cancel(self) -> None:
        """End without a tunnel."""
        if self._owner is not None:
            self._stop()
            self._upstream.close()

    def fault(self, error: Exception) -> None:
        """End the connection, because of something that must not happen."""
        owner = self._owner
        self.cancel()
        if owner is not None:
            owner.fault(error)

    def _take(self, data: bytes) -> None:
        try:
            hello = self._reader.feed(data)
        except TlsError as error:
            if error.fault is TlsFault.NOT_TLS:
                self._pass()
            else:
                self._mismatch(f"the ClientHello cannot be read: {error}")
            return
        if hello is not None:
            self._judge(hello)

    def _judge(self, hello: ClientHello) -> None:
        target = self._info.target
        match = compare(hello, target.host)
        if match is SniMatch.ASK_LIST:
            name, address = server_name(hello), self._info.address
            allowed = (
                isinstance(name, str)
                and address is not None
                and self._worker.access.still_allows(tls_target(name, target.port), address, name)
            )
            match = SniMatch.SAME if allowed else SniMatch.OTHER
        if match is SniMatch.OTHER:
            self._mismatch(f"the SNI is {hello.server_name!r}")
        else:
            self._pass()

    def _mismatch(self, reason: str) -> None:
        enforced = self._worker.sni is SniMode.ENFORCE
        self._worker.accounting.sni_mismatch("closed" if enforced else "reported")
        target = self._info.target
        _log.warning(
            "a ClientHello in a tunnel is not for the host of the CONNECT",
            client=self._info.client,
            host=printed(target.host, target.port),
            reason=reason,
            closed=enforced,
        )
        if not enforced:
            self._pass()
            return
        self._refuse("sni_mismatch")

    def _refuse(self, reason: str) -> None:
        owner = self._owner
        self._stop()
        if owner is not None:
            owner.refuse_tunnel(self._info, self._upstream, reason)

    def _pass(self) -> None:
        # The rules may have changed in the meantime, and nobody asked this connection.
        if self._lists != self._worker.access.lists and self._worker.denies(self._info):
            self._refuse("denied")
            return
        if self._owner is not None:
            self._release()
            self._owner.begin_tunnel(self._info, self._upstream, self._reader.held)
            self._owner = None  # only now: a fault in there closes both sides

    @guarded
    def _silent(self) -> None:
        if self._client_first:
            self._worker.accounting.idle_end("idle_seconds")
            self._refuse("idle")
        else:
            self._pass()

    def _upstream_moved(self, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self._silent()

    def _stop(self) -> None:
        self._owner = None
        self._release()

    def _release(self) -> None:
        self._wire.on_ready = nothing
        self._deadline.cancel()
        self._worker.poller.release(self._upstream.fileno())
        self._worker.held.hold(self, 0)
