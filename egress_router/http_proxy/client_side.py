"""The client's side of a connection: its buffered bytes, the worker's calls, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.http_proxy import replies
from egress_router.http_proxy.callbacks import callback
from egress_router.http_proxy.http1.errors import Fault
from egress_router.http_proxy.http1.request import RequestHeads
from egress_router.http_proxy.http1.state import INTO_CLOSED, INTO_LINGERING, ConnectionState
from egress_router.http_proxy.lingering_close import LingeringClose
from egress_router.http_proxy.upstream import ClientUpstreams
from egress_router.relay.buffered_socket import BufferedSocket, nothing

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.state import Into
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.owner import Request
    from egress_router.http_proxy.proxy_tunnel import ProxyTunnel
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import Who
    from egress_router.http_proxy.timeouts import Timeouts
    from egress_router.http_proxy.upstream_connector import UpstreamConnector
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.dataplane import Pair

_EXPECTED = "HTTP, as with https_proxy=http://ADDRESS:PORT; an https:// there means TLS to the proxy itself"
_log = log.get("http_proxy")
CONNECTED: Final = frozenset({ConnectionState.HELLO, ConnectionState.EXCHANGE})
_NOT_UPSTREAM: Final = frozenset({Fault.HTTP2.value, Fault.LOOP.value, Fault.UNSUPPORTED.value})
_OVER: Final = frozenset({ConnectionState.TUNNEL, ConnectionState.CLOSED})


class ClientSide:
    """The part of a `ClientConnection` that does not depend on what its requests do.

    On a transparent port clients take the proxy for the origin: `origin_port` is where their requests go.
    """

    __slots__ = (
        "_connector",
        "_ending",
        "_heads",
        "_origin_port",
        "_request",
        "_served",
        "_tunnel",
        "admission",
        "client",
        "holds",
        "kept",
        "state",
        "stream",
        "timeouts",
        "who",
        "worker",
    )  # fmt: skip

    timeouts: Timeouts

    def __init__(
        self, worker: WorkerState, sock: socket.socket, who: Who, admission: Pair, origin_port: int | None
    ) -> None:
        self.worker = worker
        self.admission = admission
        self.who = who
        self.client = who.client
        self._origin_port = origin_port
        self.state = ConnectionState.HEAD
        self.stream = BufferedSocket(sock, worker.poller, nothing, worker.max_received)
        self._heads = RequestHeads(worker.limits)
        # Whether bytes were buffered at the last `account`. Calling it only if there are some saves 5 % of a
        # GET (Python 3.11, docs/decisions/performance.md).
        self.holds = False
        self._connector: UpstreamConnector | None = None
        self._request: Request | None = None
        self.kept = ClientUpstreams(worker.pool)
        self._served = False
        self._tunnel: ProxyTunnel | None = None
        self._ending: LingeringClose | None = None

    def __repr__(self) -> str:
        held = self._heads.size + len(self.stream.held) + len(self.stream.out)
        return f"<{type(self).__name__} {self.who} {self.state.name} {self._request!r} held={held}>"

    # Buffered bytes

    def account(self) -> None:
        """Note how many bytes this connection buffers."""
        size = self._heads.size + len(self.stream.held) + len(self.stream.out)
        if self._request is not None and self.state in CONNECTED:
            size += self._request.held
        self.holds = size > 0
        self.worker.held.hold(self, size)

    @callback
    def give_way(self) -> None:
        """End what is under way: all connections together buffer too much, and this one the most."""
        self.worker.accounting.limit("held_bytes")
        if self.state is ConnectionState.HEAD:
            self._refuse(replies.TOO_MUCH_HELD)
        elif self.state is ConnectionState.CONNECTING and self._connector is not None:
            self._connector.fail(replies.TOO_MUCH_HELD)
        elif self.state in CONNECTED and self._request is not None:
            self._request.give_way()

    # Called by the worker

    @property
    def target(self) -> RequestTarget | None:
        """Where the present request leads to."""
        return None if self._connector is None else self._connector.info.target

    def is_denied(self) -> bool:
        """Say whether the present rules would deny the open connection to the origin."""
        return (
            self._connector is not None
            and self.state in CONNECTED
            and self.worker.denies(self._connector.info)
        )

    @callback
    def end_if_denied(self) -> None:
        """Close if the present rules do not allow it."""
        if self._tunnel is not None:  # it became one after the rules had changed
            self._tunnel.end_if_denied()
        elif self.is_denied():
            self.close_now()

    def drain(self) -> None:
        """Close if idle between requests; a connection without a request so far may still send its first."""
        if self.state is ConnectionState.HEAD and self._served and not self._heads.begun:
            self.close("drained")
        elif self._request is not None:
            self._request.last()

    def close_now(self) -> None:
        """Close whatever is under way."""
        if self._tunnel is not None:
            self._tunnel.close_now()
        elif self._ending is not None:
            self._ending.close()
        elif self.state in CONNECTED and self._request is not None:
            self._request.close_now()
        else:
            self.close("closed")

    # The end

    def _refuse(self, reply: Reply) -> None:
        self.worker.accounting.refused(self.who, reply.status, reply.reason)
        if reply.reason == Fault.TLS.value:
            _log.warning(
                "a client speaks TLS to the port of the proxy", client=self.client, expected=_EXPECTED
            )
        elif self._origin_port is not None:
            _log.warning(
                "HTTP to a transparent port is refused",
                client=self.client,
                reason=reply.reason,
                port=self._origin_port,
                error=reply.sentence,
            )
        self.answer_and_close(reply)

    def fault(self, error: Exception) -> None:
        """Close, because of an unexpected error."""
        self.worker.fault(error)
        try:
            self.close_now()
        finally:
            self.abort()

    def answer_and_close(self, reply: Reply) -> None:
        """Send an answer of the proxy itself and close; an answer to HEAD has no body."""
        if self._origin_port is not None and (reply.status < 500 or reply.reason in _NOT_UPSTREAM):
            self.worker.accounting.transparent_refused(reply.reason)
        self.say_and_close(reply.encoded(self.worker.date(), with_body=not self._heads.for_head))

    def say_and_close(self, last: bytes) -> None:
        """Send these bytes, and close once they have arrived."""
        self.state = INTO_LINGERING[self.state]
        self._forget_bytes()
        self.timeouts.stop()
        self.kept.close()
        self._ending = LingeringClose(
            self.worker, self.stream, last, self.worker.limits.linger_seconds, self._lingered
        )

    def close(self, reason: str) -> None:
        """Close normally."""
        if self.state not in _OVER:
            self.stream.close()
            self._left(reason)

    def abort(self) -> None:
        """Close so that the client sees that its answer is incomplete."""
        if self.state not in _OVER:
            self.stream.abort()
            self._left("cut")

    def _lingered(self) -> None:
        self._left("answered")

    def _left(self, reason: str) -> None:
        if self._request is not None:
            self._request.left()
        if self._connector is not None:
            self._connector.cancel()
            self.worker.accounting.left(self._connector.info)
        self._end(INTO_CLOSED)
        self.worker.left(self, reason)

    def _end(self, into: Into[ConnectionState]) -> None:
        self.state = into[self.state]
        self._forget_bytes()
        self.timeouts.end()
        self.kept.close()
        # These and the connection refer to each other; otherwise only the garbage collector would free them.
        self._connector = self._request = self._ending = None

    def _forget_bytes(self) -> None:
        if self.holds:
            self.holds = False
            self._heads.drop()
            self.worker.held.hold(self, 0)
