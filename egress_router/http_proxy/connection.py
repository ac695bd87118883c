"""One client connection: reads heads, decides on each request, answers in order, or becomes a tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.http_proxy import replies
from egress_router.http_proxy.callbacks import callback, result_callback
from egress_router.http_proxy.client_side import CONNECTED, ClientSide
from egress_router.http_proxy.connect import ConnectRequest
from egress_router.http_proxy.forwarder import Forwarder
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.exchange import Exchange
from egress_router.http_proxy.http1.forwarding import check_loop, forwards_left
from egress_router.http_proxy.http1.request import target_of
from egress_router.http_proxy.http1.state import (
    INTO_CONNECTING,
    INTO_HEAD,
    INTO_TUNNEL,
    ConnectionState,
)
from egress_router.http_proxy.proxy_tunnel import ProxyTunnel
from egress_router.http_proxy.timeouts import Timeouts
from egress_router.http_proxy.tls_connection import TlsConnection
from egress_router.http_proxy.upstream_connector import UpstreamConnector
from egress_router.relay.buffered_socket import nothing
from egress_router.relay.own_connections import LOOP_TURNS
from egress_router.tls.client_hello import TLS_RECORD

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.known_connects import KnownConnect
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.dataplane import Forwarding
    from egress_router.relay.dial import Dialled
    from egress_router.relay.news import Arrival


class ClientConnection(ClientSide):
    """Serves one client connection until it closes, in callbacks of the poller."""

    __slots__ = ("_acceptor", "_repeatable")

    def __init__(
        self,
        worker: WorkerState,
        sock: socket.socket,
        who: Who,
        arrival: Arrival,
        acceptor: Forwarding,
        origin_port: int | None,
    ) -> None:
        super().__init__(worker, sock, who, arrival.admission, origin_port)
        self.timeouts = Timeouts(self, worker.deadlines, worker.limits)
        self.stream.on_ready = self.read_head
        self.stream.held = arrival.early  # usually the whole request; the poller reports further bytes
        self._acceptor = acceptor
        self._repeatable = b""

    # Heads

    @callback
    def read_head(self) -> None:
        """Read until a head is complete, and act on it."""
        if self.state is not ConnectionState.HEAD:
            return
        for _ in range(self.worker.reads_in_turn):
            data = self.stream.receive()
            if data is None:
                break
            if not data:
                self.close("client_closed")
                return
            if self._take(data):
                return
        else:
            self.stream.again()
        if self._heads.begun:
            self.timeouts.await_head()
            self.account()
        elif not self._served:
            self.timeouts.await_head()
        self.stream.watch()

    def _take(self, data: bytes) -> bool:
        """Add bytes to the head; say whether reading is over for now."""
        if self._origin_port is not None and data[:1] == TLS_RECORD and self._is_first():
            self._speak_tls(data, self._origin_port)
            return True
        try:
            head, rest = self._heads.next(data)
            if head is None:
                return False
            if rest or self.holds:
                self.stream.held = rest
                self.account()
            self._begin(head)
        except MessageError as error:
            self.worker.accounting.met_limit(error)
            self._refuse(replies.refused(error))
        return True

    def _begin(self, head: RequestHead) -> None:
        """Begin a request: decide on it, and let a connection be made for it."""
        worker = self.worker
        self._served = True
        self.timeouts.head_came()
        connect = head.method == b"CONNECT"
        # How often the connection has come back, through an address that leads to this proxy.
        turns = worker.plane.turns(self.admission, self.stream.sock) if connect else None
        if turns is not None and turns >= LOOP_TURNS:
            raise MessageError(502, "the connection comes from this proxy itself", Fault.LOOP)
        target = target_of(head, self._origin_port)
        if head.special:
            check_loop(head)
        info = worker.accounting.begun(self.who, head, target)
        if connect:
            self._request = ConnectRequest(self, info)
            self._repeatable = head.repeatable
        elif head.special and forwards_left(head) == 0:
            self._answer_as_final_recipient(head)
            return
        else:
            self._request = Forwarder(self, info, Exchange(head, target, worker.limits, worker.date))
        self._connector = UpstreamConnector(worker, self, info, turns)
        self._wait()
        self._connector.begin()
        if self.state is ConnectionState.CONNECTING:
            worker.client_watch.add(self)

    @result_callback
    def go_on(self, upstream: tuple[KnownConnect, Dialled]) -> None:
        """Continue a CONNECT that the data plane has connected and answered; its head is not available."""
        known, dialled = upstream
        worker = self.worker
        info = worker.accounting.begun_again(self.who, known.target, dialled.seconds)
        worker.access.used_again(known.target, 1)
        self._served = True
        self._request = request = ConnectRequest(self, info)
        self._connector = UpstreamConnector(
            worker, self, info, worker.plane.turns(self.admission, self.stream.sock)
        )
        self._wait()
        worker.accounting.decided(info, known.decision)
        info.address, info.connect_seconds = dialled.address, dialled.seconds
        worker.accounting.connected(info, dialled.sock)
        request.answered(dialled, silent=not self.stream.held)
        if known.lists != worker.access.lists:  # the rules have changed since the answer
            self.end_if_denied()

    def _answer_as_final_recipient(self, head: RequestHead) -> None:
        status, answer = replies.as_final_recipient(head.method, self.worker.date())
        self.worker.accounting.refused(self.who, status, "final_recipient")
        self.say_and_close(answer)

    def _is_first(self) -> bool:
        """Say whether nothing was read from the client yet."""
        return not (self._served or self._heads.begun)

    def _speak_tls(self, data: bytes, origin_port: int) -> None:
        """Hand the connection over to `TlsConnection`."""
        stream = self.stream
        stream.held = data
        self._end(INTO_TUNNEL)
        self.worker.connections.discard(self)
        TlsConnection(self.worker, stream, self.who, self.admission, self._acceptor, origin_port).read()

    def _wait(self) -> None:
        """Read nothing until there is a connection: what the client sends meanwhile stays in the kernel."""
        self.state = INTO_CONNECTING[self.state]
        self.stream.on_ready = self._client_moved

    def still_waiting(self) -> None:
        """Watch a client whose connection to the origin takes long."""
        if self.state is ConnectionState.CONNECTING:
            self.stream.watch()

    @callback
    def _client_moved(self) -> None:
        if self.stream.gone:  # reset; a client that has only ended its sending side still wants its answer
            self.close("client_gone")

    # With a connection

    def reuse(self) -> bool:
        """Send the request over a kept connection, if there is one to an address that is allowed now."""
        return self._request is not None and self._request.reuse()

    def connected(self, info: RequestInfo, dialled: Dialled) -> None:
        """Send the request over a new connection, or answer a CONNECT and relay."""
        if self._repeatable:
            self.worker.known.remember(self._acceptor, self._repeatable, info, dialled)
        if self._request is not None:
            self._request.connected(dialled)

    def dial_again(self) -> None:
        """Repeat the request over a new connection."""
        self._wait()
        if self._connector is not None:
            self._connector.dial()
            self.worker.client_watch.add(self)

    def next_request(self, *, persists: bool, was_last: bool) -> None:
        """Continue after an exchange; `was_last` says that the client itself sends nothing more."""
        self._request = self._connector = None
        if self.holds:
            self.account()
        unread = self.stream.held or self.stream.readable
        if persists and not self.worker.draining:
            self.state = INTO_HEAD[self.state]
            self.stream.on_ready = self.read_head
            self.timeouts.await_request()
            if unread:
                self.worker.poller.soon(self.read_head)
        elif unread or not was_last:
            self.say_and_close(b"")  # what comes now would reset a closed connection, and cut the answer
        else:
            self.close("finished")

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel, after a CONNECT or an answer 101."""
        stream = self.stream
        self._tunnel = ProxyTunnel(
            self.worker,
            info,
            self.admission,
            (stream.sock, upstream),
            to_upstream=stream.held,
            to_client=to_client,
        )
        self._end(INTO_TUNNEL)
        stream.on_ready = nothing
        self.worker.connections.discard(self)

    # Timeouts

    @callback
    def head_late(self) -> None:
        """Refuse a head that comes too slowly; close without an answer if none has begun."""
        if self.state is not ConnectionState.HEAD:
            return
        if self._heads.begun:
            self.worker.accounting.limit("head_seconds")
            self._refuse(replies.HEAD_TOO_SLOW)
        else:
            self.worker.accounting.idle_end("head_seconds")
            self.close("no_request")

    @callback
    def idle_late(self) -> None:
        """Close a connection that is idle between requests."""
        if self.state is ConnectionState.HEAD and not self._heads.begun:
            self.worker.accounting.idle_end("keepalive_seconds")
            self.close("idle")

    @callback
    def answer_late(self) -> None:
        """Give up an exchange whose answer does not begin."""
        if self._request is not None and self.state in CONNECTED:
            self._request.late(begun=False)

    @callback
    def more_late(self) -> None:
        """Give up an exchange whose answer does not continue."""
        if self._request is not None and self.state in CONNECTED:
            self._request.late(begun=True)
