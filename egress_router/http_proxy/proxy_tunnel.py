"""A tunnel: a client's connection to an origin, over which the data plane relays all bytes unread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router.http_proxy.accounting import TLS_METHOD
from egress_router.http_proxy.callbacks import callback
from egress_router.relay.tunnel import CloseReason

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.dataplane import Pair
    from egress_router.relay.tunnel import Closing

# The status that the proxy sent to the client; any other method got an origin's answer 101.
_STATUS: Final = {b"CONNECT": 200, TLS_METHOD: 0}


class ProxyTunnel:
    """A client's connection to an origin, after a CONNECT or an answer 101, or for TLS.

    Many stay open for days without a byte. So this replaces the ClientConnection, which is much larger.
    """

    __slots__ = ("_info", "_tunnel", "_worker", "admission")

    def __init__(
        self,
        worker: WorkerState,
        info: RequestInfo,
        admission: Pair,
        sockets: tuple[socket.socket, socket.socket],
        *,
        to_upstream: bytes,
        to_client: bytes,
    ) -> None:
        """Begin to relay between client and upstream; `to_upstream` and `to_client` are sent first."""
        self._worker = worker
        self._info = info
        self.admission = admission
        worker.accounting.tunnel_opened(info)  # before the sockets are handed over
        self._tunnel = worker.relay.start(
            *sockets,
            worker.limits.idle_seconds,
            self._closed,
            to_upstream=to_upstream,
            to_client=to_client,
            admission=admission,
        )
        worker.connections.add(self)

    def __repr__(self) -> str:
        went = f"sent={self._tunnel.sent} received={self._tunnel.received}"
        return f"<ProxyTunnel {self.who} TUNNEL {self._info} at {self._info.address} {went}>"

    @property
    def who(self) -> Who:
        """Whose connection it is."""
        return self._info.who

    @property
    def target(self) -> RequestTarget:
        """Where it leads to."""
        return self._info.target

    def is_denied(self) -> bool:
        """Say whether the present rules would deny the tunnel."""
        return self._worker.denies(self._info)

    @callback
    def end_if_denied(self) -> None:
        """Close if the present rules do not allow it."""
        if self.is_denied():
            self.close_now()

    def drain(self) -> None:
        """Do nothing: a tunnel ends when its client or its origin ends it."""

    def close_now(self) -> None:
        """Close both sides; each sees that its stream is incomplete."""
        self._tunnel.close()

    def fault(self, error: Exception) -> None:
        """Close, because of an unexpected error."""
        self._worker.fault(error)
        self.close_now()

    def _closed(self, closing: Closing) -> None:
        worker, info = self._worker, self._info
        worker.accounting.tunnel_closed()
        if closing.reason is CloseReason.IDLE:
            worker.accounting.idle_end("idle_seconds")
        if closing.first_byte is not None:
            worker.accounting.tunnel_answered(info, closing.first_byte)
        status = _STATUS.get(info.method, 101)
        worker.accounting.closed(info, status, closing.sent, closing.received, closing.reason.value)
        worker.left(self, closing.reason.value)
