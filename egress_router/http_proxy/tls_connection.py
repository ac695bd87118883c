"""A connection to a transparent port that begins with TLS: read the name, decide, relay undecrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.http_proxy.callbacks import callback
from egress_router.http_proxy.http1.errors import Fault
from egress_router.http_proxy.http1.target import tls_target
from egress_router.http_proxy.lingering_close import SILENCE, LingeringClose
from egress_router.http_proxy.proxy_tunnel import ProxyTunnel
from egress_router.http_proxy.replies import TOO_MUCH_HELD
from egress_router.http_proxy.upstream_connector import UpstreamConnector
from egress_router.relay.buffered_socket import nothing
from egress_router.relay.own_connections import LOOP_TURNS
from egress_router.tls.alert import Alert, fatal
from egress_router.tls.client_hello import ClientHelloReader
from egress_router.tls.errors import TlsError
from egress_router.tls.server_name import NameFault, server_name

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket
    from egress_router.relay.dataplane import Forwarding, Pair
    from egress_router.relay.dial import Dialled
    from egress_router.tls.client_hello import ClientHello

_log = log.get("http_proxy")


class TlsConnection:
    """From the first byte of TLS to the tunnel, or to a refusal with a TLS alert."""

    __slots__ = (
        "_acceptor",
        "_connector",
        "_deadline",
        "_ending",
        "_origin_port",
        "_over",
        "_reader",
        "_stream",
        "_tunnel",
        "_worker",
        "admission",
        "client",
        "who",
    )  # fmt: skip

    def __init__(
        self,
        worker: WorkerState,
        stream: BufferedSocket,
        who: Who,
        admission: Pair,
        acceptor: Forwarding,
        origin_port: int,
    ) -> None:
        """Take over the socket; bytes that it has buffered are read first."""
        self._worker = worker
        self._acceptor = acceptor
        self._stream = stream
        self.who = who
        self.admission = admission
        self.client = who.client
        self._origin_port = origin_port
        self._reader = ClientHelloReader()
        self._deadline = worker.deadlines.add(worker.limits.head_seconds, self._late)
        self._connector: UpstreamConnector | None = None
        self._tunnel: ProxyTunnel | None = None
        self._ending: LingeringClose | None = None
        self._over = False
        stream.on_ready = self.read
        worker.connections.add(self)

    def __repr__(self) -> str:
        asked = "HELLO" if self._connector is None else f"CONNECTING {self._connector.info}"
        state = "CLOSED" if self._over else "LINGERING" if self._ending is not None else asked
        return f"<TlsConnection {self.who} {state} held={self._reader.size}>"

    # The ClientHello

    @callback
    def read(self) -> None:
        """Read until the ClientHello is complete, and act on it."""
        for _ in range(self._worker.reads_in_turn):
            data = self._stream.receive()
            if data is None:
                break
            if not data:
                self._close("client_closed")
                return
            if self._take(data):
                return
        else:
            self._stream.again()
        self._hold()
        self._stream.watch()

    def _take(self, data: bytes) -> bool:
        """Add bytes to the ClientHello; say whether reading is over."""
        try:
            hello = self._reader.feed(data)
        except TlsError as error:
            self._refuse(Alert.DECODE_ERROR, error.fault.value)
            return True
        if hello is None:
            return False
        self._decide(hello)
        return True

    def _decide(self, hello: ClientHello) -> None:
        self._deadline.cancel()
        self._hold()  # until there is a connection, with the bytes after the ClientHello
        self._stream.on_ready = self._client_moved
        name = server_name(hello)
        if isinstance(name, NameFault):
            self._refuse(Alert.UNRECOGNIZED_NAME, name.value)
            return
        turns = self._worker.plane.turns(self.admission, self._stream.sock)
        if turns >= LOOP_TURNS:
            self._refuse(Alert.INTERNAL_ERROR, Fault.LOOP.value)
            return
        target = tls_target(name, self._origin_port)
        info = self._worker.accounting.begun_tls(self.who, target)
        self._connector = UpstreamConnector(self._worker, self, info, turns)
        self._connector.begin()
        if self._connector is not None:
            self._worker.client_watch.add(self)

    def _hold(self) -> None:
        self._worker.held.hold(self, self._reader.size)

    def still_waiting(self) -> None:
        """Watch a client whose connection to the origin takes long."""
        if self._connector is not None:
            self._stream.watch()

    @callback
    def _client_moved(self) -> None:
        if self._stream.gone:
            self._close("client_gone")

    @callback
    def _late(self) -> None:
        self._worker.accounting.limit("head_seconds")
        self._refuse(Alert.HANDSHAKE_FAILURE, "head_too_slow")

    @callback
    def give_way(self) -> None:
        """End: all connections together buffer too much, and this one the most."""
        self._worker.accounting.limit("held_bytes")
        if self._connector is not None:
            self._connector.fail(TOO_MUCH_HELD)
        else:
            self._refuse(Alert.INTERNAL_ERROR, TOO_MUCH_HELD.reason)

    # Called by the connector

    def reuse(self) -> bool:
        """See `Owner`: each TLS connection gets a new one to the origin."""
        return False

    def connected(self, info: RequestInfo, dialled: Dialled) -> None:
        """Relay, beginning with the ClientHello."""
        worker, stream = self._worker, self._stream
        worker.held.hold(self, 0)
        worker.known.remember_name(self._acceptor, info, dialled)
        self._tunnel = ProxyTunnel(
            worker,
            info,
            self.admission,
            (stream.sock, dialled.sock),
            to_upstream=self._reader.held,
            to_client=b"",
        )
        self._connector = None
        stream.on_ready = nothing
        worker.connections.discard(self)

    def answer_and_close(self, reply: Reply) -> None:
        """Refuse with an alert: the client expects no HTTP here."""
        self._connector = None
        if reply.status == 403:
            self._worker.accounting.transparent_refused(reply.reason)
        self._say(Alert.ACCESS_DENIED if reply.status == 403 else Alert.INTERNAL_ERROR)

    def fault(self, error: Exception) -> None:
        """Close, because of an unexpected error."""
        self._worker.fault(error)
        self.close_now()

    # The end

    @property
    def target(self) -> RequestTarget | None:
        """Where it leads to; None if this is not decided or not needed any more."""
        return None if self._connector is None else self._connector.info.target

    def is_denied(self) -> bool:
        """See `Connection`. No: until it is connected the connector decides, then the tunnel is asked."""
        return False

    def end_if_denied(self) -> None:
        """See `is_denied`."""

    def drain(self) -> None:
        """Do nothing: an accepted client still gets its connection."""

    def close_now(self) -> None:
        """Close whatever is under way."""
        if self._tunnel is not None:
            self._tunnel.close_now()
        elif self._ending is not None:
            self._ending.close()
        else:
            self._close("closed")

    def _close(self, reason: str) -> None:
        self._stream.close()
        self._left(reason)

    def _refuse(self, alert: Alert, reason: str) -> None:
        accounting = self._worker.accounting
        accounting.transparent_refused(reason)
        accounting.refused(self.who, 0, reason)
        _log.warning(
            "TLS to a transparent port is refused", client=self.client, reason=reason, port=self._origin_port
        )
        self._say(alert)

    def _say(self, alert: Alert) -> None:
        self._deadline.cancel()
        self._worker.held.hold(self, 0)
        self._ending = LingeringClose(self._worker, self._stream, fatal(alert), SILENCE, self._lingered)

    def _lingered(self) -> None:
        self._left("answered")

    def _left(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._deadline.cancel()
        self._worker.held.hold(self, 0)
        if self._connector is not None:
            self._connector.cancel()
            self._worker.accounting.left(self._connector.info)
        self._connector = self._ending = None
        self._worker.left(self, reason)
