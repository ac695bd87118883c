"""One client connection: heads in, each request decided anew, answers in their order, or a tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.http_proxy import replies
from egress_router.http_proxy.forwarder import Forwarder
from egress_router.http_proxy.guard import guarded
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.exchange import Exchange
from egress_router.http_proxy.http1.forwarding import check_loop, forwards_left
from egress_router.http_proxy.http1.request import RequestHeads
from egress_router.http_proxy.http1.state import (
    INTO_CLOSED,
    INTO_CONNECTING,
    INTO_EXCHANGE,
    INTO_HEAD,
    INTO_HELLO,
    INTO_LINGERING,
    INTO_TUNNEL,
    ConnectionState,
)
from egress_router.http_proxy.http1.target import absolute_target, connect_target, origin_target
from egress_router.http_proxy.lingering_close import LingeringClose
from egress_router.http_proxy.proxy_tunnel import ProxyTunnel
from egress_router.http_proxy.sni_check import SniCheck
from egress_router.http_proxy.timeouts import Timeouts
from egress_router.http_proxy.tls_connection import TlsConnection
from egress_router.http_proxy.upstream import ClientUpstreams, Upstream
from egress_router.http_proxy.upstream_connector import UpstreamConnector
from egress_router.relay.buffered_socket import TURNS, BufferedSocket, nothing
from egress_router.tls.alert import Alert, fatal
from egress_router.tls.client_hello import TLS_RECORD

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.http1.state import Into
    from egress_router.http_proxy.http1.target import Target
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.dataplane import Pair
    from egress_router.relay.dial import Dialled

_EXPECTED = "HTTP, as with https_proxy=http://ADDRESS:PORT; an https:// there means TLS to the proxy itself"
_log = log.get("http_proxy")
# Bound once: in CPython 3.11 an enum's member costs as much as two calls.
HEAD: Final = ConnectionState.HEAD
CONNECTING: Final = ConnectionState.CONNECTING
HELLO: Final = ConnectionState.HELLO
EXCHANGE: Final = ConnectionState.EXCHANGE
_NOT_UPSTREAM: Final = frozenset({Fault.HTTP2.value, Fault.LOOP.value, Fault.UNSUPPORTED.value})
_OVER: Final = frozenset({ConnectionState.TUNNEL, ConnectionState.CLOSED})


class ClientConnection:
    """Serves one client connection until it closes; runs in callbacks of the poller.

    On a transparent port clients speak as if this were the origin: `origin_port` is where their requests go.
    """

    __slots__ = ("_accepted", "_connector", "_ending", "_forwarder", "_heads", "_origin_port", "_own",
        "_served", "_sni_check", "_tunnel", "client", "holds", "kept", "place", "state", "timeouts", "who",
        "wire", "worker")  # fmt: skip

    def __init__(
        self,
        worker: WorkerState,
        sock: socket.socket,
        who: Who,
        place: Pair,
        early: bytes,
        origin_port: int | None,
    ) -> None:
        self.worker = worker
        self.place = place
        self.timeouts = Timeouts(self, worker.deadlines, worker.limits)
        self.who = who
        self.client = who.client
        self._accepted = worker.clock.monotonic()
        self._origin_port = origin_port
        self._own = False  # the proxy itself made it, by way of an address that leads back here
        self.state = HEAD
        self.wire = BufferedSocket(sock, worker.poller, self.read_head, worker.most_received)
        self.wire.held = early  # mostly the request; what else is there, the poller will say
        self._heads = RequestHeads(worker.limits, worker.connects)
        self.holds = False  # bytes, as far as `account` knows
        self._connector: UpstreamConnector | None = None
        self._forwarder: Forwarder | None = None
        self.kept = ClientUpstreams(worker.pool)
        self._served = False
        self._sni_check: SniCheck | None = None
        self._tunnel: ProxyTunnel | None = None
        self._ending: LingeringClose | None = None

    # Heads

    @guarded
    def read_head(self) -> None:
        """Read on until there is a head, and act on it."""
        if self.state is not HEAD:
            return
        for _ in range(TURNS):
            data = self.wire.receive()
            if data is None:
                break
            if not data:
                self.close()
                return
            if self._take(data):
                return
        else:
            self.wire.again()
        if self._heads.begun:
            self.timeouts.await_head()
            self.account()
        elif not self._served:
            self.timeouts.await_head()
        self.wire.watch()

    def _take(self, data: bytes) -> bool:
        """Add bytes to the head; say whether reading is over for now."""
        if self._origin_port is not None and data[:1] == TLS_RECORD and self._is_first():
            self._speak_tls(data, self._origin_port)
            return True
        try:
            head, behind = self._heads.next(data)
            if head is None:
                return False
            if behind or self.holds:
                self.wire.held = behind
                self.account()
            self._request(head)
        except MessageError as error:
            self.worker.accounting.met_limit(error)
            self._refuse(replies.refused(error))
        return True

    def _request(self, head: RequestHead) -> None:
        if not self._served:
            self._served = True
            self._own = self.worker.own_connections.accepted(self.wire.sock, self._accepted)
        self.timeouts.head_came()
        connect = head.method == b"CONNECT"
        if connect and self._own:
            raise MessageError(502, "the connection comes from this proxy itself", Fault.LOOP)
        if self._origin_port is not None:
            target = origin_target(head.method, head.target, head.host, self._origin_port)
        else:
            target = connect_target(head.target) if connect else absolute_target(head.method, head.target)
        if head.special:
            check_loop(head)
        info = self.worker.accounting.begun(self.who, head, target)
        if not connect:
            if head.special and forwards_left(head) == 0:
                status, answer = replies.as_final_recipient(head.method, self.worker.date())
                self.worker.accounting.refused(self.who, status, "final_recipient")
                self._linger(answer)
                return
            exchange = Exchange(head, target, self.worker.limits, self.worker.date)
            self._forwarder = Forwarder(self, info, exchange)
        self._connector = UpstreamConnector(self.worker, self, info)
        self._wait()
        self._connector.begin()
        if self.state is CONNECTING:
            self.worker.client_watch.add(self)

    def _is_first(self) -> bool:
        """Say whether nothing of the client has been read yet."""
        return not (self._served or self._heads.begun)

    def _speak_tls(self, data: bytes, origin_port: int) -> None:
        """Hand the connection over to who reads TLS."""
        wire = self.wire
        wire.held = data
        self._end(INTO_TUNNEL)
        self.worker.connections.discard(self)
        TlsConnection(self.worker, wire, self.who, self.place, origin_port, self._accepted).read()

    def _wait(self) -> None:
        """What the client sends while there is no connection stays in the kernel."""
        self.state = INTO_CONNECTING[self.state]
        self.wire.on_ready = self._client_moved

    def still_waiting(self) -> None:
        """Watch a client whose connection to the origin takes its time."""
        if self.state is CONNECTING:
            self.wire.watch()

    @guarded
    def _client_moved(self) -> None:
        if self.wire.gone:  # reset; a client that has only ended its sending side still wants its answer
            self.close()

    # With a connection

    def reuse(self, info: RequestInfo) -> bool:
        """Send the request over a connection that is kept, if it leads to an address allowed now."""
        if self._forwarder is None:
            return False
        key, addresses = (self.client, info.target.authority, info.leaving), info.decision.addresses
        upstream = self.kept.take(key, addresses, shared=self._forwarder.repeatable)
        if upstream is None:
            return False
        info.address = upstream.address
        self.worker.accounting.reused(info, upstream.sock)
        self._start(self._forwarder, upstream)
        return True

    def connected(self, info: RequestInfo, dialled: Dialled) -> None:
        """Send the request over a new connection, or answer a CONNECT and relay."""
        if self._forwarder is not None:
            worker, key = self.worker, (self.client, info.target.authority, info.leaving)
            most = worker.most_received
            upstream = Upstream(worker.pool, key, dialled.sock, worker.poller, dialled.address, most)
            self._start(self._forwarder, upstream)
            return
        if self._connector is not None:
            seconds = self.worker.clock.monotonic() - self._connector.began
            self.worker.own_connections.made(dialled.sock, seconds)
        self.wire.send(replies.ESTABLISHED)
        if self.worker.sni == "off":
            self.open_tunnel(info, dialled.sock, self.wire.out)
            return
        self.state = INTO_HELLO[self.state]
        origin = BufferedSocket(dialled.sock, self.worker.poller, nothing)
        self._sni_check = SniCheck(self.worker, self, info, self.wire, origin)
        self._sni_check.begin()
        if self.state is HELLO and (self.holds or self._sni_check.held):
            self.account()

    def first_bytes_pass(self, data: bytes) -> None:
        """Go on as a tunnel; `data` goes to the origin first."""
        check = self._sni_check
        if check is not None and self._connector is not None:
            self.wire.held = data
            self.open_tunnel(self._connector.info, check.origin.sock, self.wire.out)

    def first_bytes_refused(self) -> None:
        """End with the alert of a TLS server; nothing may go to the origin."""
        check, self._sni_check = self._sni_check, None
        if check is not None and self._connector is not None:
            check.origin.close()
            self.worker.accounting.closed(self._connector.info, 200, 0, 0, "sni_mismatch")
            self._linger(fatal(Alert.ACCESS_DENIED))

    def dial_again(self) -> None:
        """Repeat the exchange over a new connection."""
        self._wait()
        if self._connector is not None:
            self._connector.dial()
            self.worker.client_watch.add(self)

    def _start(self, forwarder: Forwarder, upstream: Upstream) -> None:
        self.state = INTO_EXCHANGE[self.state]
        self.timeouts.await_answer()
        forwarder.start(upstream)

    def next_request(self, *, persists: bool, complete: bool) -> None:
        """Go on after an exchange; `complete` says that the whole request was read."""
        self._forwarder = None
        self._connector = None
        if self.holds:
            self.account()
        unread = self.wire.held or self.wire.readable
        if persists and not self.worker.draining:
            self.state = INTO_HEAD[self.state]
            self.wire.on_ready = self.read_head
            self.timeouts.await_request()
            if unread:
                self.worker.poller.soon(self.read_head)
        elif unread or not complete:
            self._linger(b"")
        else:
            self.close()

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel, after a CONNECT or an answer 101."""
        wire = self.wire
        self._tunnel = ProxyTunnel(
            self.worker, info, self.place, (wire.sock, upstream), to_upstream=wire.held, to_client=to_client
        )
        self._end(INTO_TUNNEL)
        wire.on_ready = nothing
        self.worker.connections.discard(self)

    # Bytes that are held

    def account(self) -> None:
        """Note how many bytes this connection holds."""
        size = self._heads.size + len(self.wire.held) + len(self.wire.out)
        if self.state is EXCHANGE and self._forwarder is not None:
            size += self._forwarder.held
        elif self._sni_check is not None:
            size += self._sni_check.held
        self.holds = size > 0
        self.worker.held.hold(self, size)

    @guarded
    def give_way(self) -> None:
        """End what is under way: all connections together hold too much, and this one most of it."""
        self.worker.accounting.limit("held_bytes")
        if self.state is CONNECTING and self._connector is not None:
            self._connector.fail(replies.TOO_MUCH_HELD)
        elif self.state is EXCHANGE and self._forwarder is not None:
            self._forwarder.give_way()
        elif self.state is HELLO:
            self.abort()
        elif self.state is HEAD:
            self._refuse(replies.TOO_MUCH_HELD)

    # The end

    @property
    def target(self) -> Target | None:
        """Where the present request leads to."""
        return None if self._connector is None else self._connector.info.target

    def is_denied(self) -> bool:
        """Say whether the present rules would deny the connection that is open."""
        return (
            self._connector is not None
            and self.state in {HELLO, EXCHANGE}
            and self.worker.denies(self._connector.info)
        )

    @guarded
    def end_if_denied(self) -> None:
        """Close what the present rules do not allow."""
        if self._tunnel is not None:  # it has become one since the rules changed
            self._tunnel.end_if_denied()
        elif self.is_denied():
            self.close_now()

    def drain(self) -> None:
        """Close if idle between requests; one without a request so far still gets its first answer."""
        if self.state is HEAD and self._served and not self._heads.begun:
            self.close()
        elif self.state is EXCHANGE and self._forwarder is not None:
            self._forwarder.last()

    def close_now(self) -> None:
        """Close whatever is under way."""
        if self._tunnel is not None:
            self._tunnel.close_now()
        elif self._ending is not None:
            self._ending.close()
        elif self._forwarder is not None and self.state is EXCHANGE:
            self._forwarder.abort("closed")
        elif self.state is HELLO:
            self.abort()
        else:
            self.close()

    def _refuse(self, reply: Reply) -> None:
        self.worker.accounting.refused(self.who, reply.status, reply.reason)
        if reply.reason == Fault.TLS.value:
            _log.warning(
                "a client speaks TLS to the port of the proxy", client=self.client, expected=_EXPECTED
            )
        self.answer_and_close(reply)

    def answer_and_close(self, reply: Reply) -> None:
        """Send an answer of the proxy's own and close; an answer to HEAD has no body."""
        if self._origin_port is not None and (reply.status < 500 or reply.reason in _NOT_UPSTREAM):
            self.worker.accounting.transparent_refused(reply.reason)
        self._linger(reply.encoded(self.worker.date(), with_body=not self._heads.for_head))

    def _linger(self, answer: bytes) -> None:
        self.state = INTO_LINGERING[self.state]
        self._forget_bytes()
        self.timeouts.stop()
        self.kept.close()
        self._ending = LingeringClose(
            self.worker, self.wire, answer, self.worker.limits.linger_seconds, self._left
        )

    def close(self) -> None:
        """Close in order."""
        if self.state not in _OVER:
            self.wire.close()
            self._left()

    def abort(self) -> None:
        """Close so that the client sees that its answer is cut short."""
        if self.state not in _OVER:
            self.wire.abort()
            self._left()

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""
        self.worker.fault(error)
        try:
            self.close_now()
        finally:
            self.abort()

    def _left(self) -> None:
        if self._sni_check is not None:
            self._sni_check.stop()
            self._sni_check.origin.abort()
        if self._connector is not None:
            self._connector.cancel()
            self.worker.accounting.left(self._connector.info)
        self._end(INTO_CLOSED)
        self.worker.left(self)

    def _end(self, into: Into[ConnectionState]) -> None:
        self.state = into[self.state]
        self._forget_bytes()
        self.timeouts.end()
        self.kept.close()
        # These and the connection refer to each other; without this they would wait for the collector.
        self._connector = self._forwarder = self._sni_check = self._ending = None

    def _forget_bytes(self) -> None:
        if self.holds:
            self.holds = False
            self._heads.drop()
            self.worker.held.hold(self, 0)

    # What did not come in time

    @guarded
    def head_late(self) -> None:
        """Refuse a head that trickles; with a client that never began one there is nothing to talk about."""
        if self.state is not HEAD:
            return
        if self._heads.begun:
            self.worker.accounting.limit("head_seconds")
            self._refuse(replies.HEAD_TOO_SLOW)
        else:
            self.worker.accounting.idle_end("head_seconds")
            self.close()

    @guarded
    def idle_late(self) -> None:
        """Close a connection between requests."""
        if self.state is HEAD and not self._heads.begun:
            self.worker.accounting.idle_end("keepalive_seconds")
            self.close()

    @guarded
    def answer_late(self) -> None:
        """Give an exchange up whose answer does not begin."""
        if self.state is EXCHANGE and self._forwarder is not None:
            self._forwarder.late(begun=False)

    @guarded
    def more_late(self) -> None:
        """Give an exchange up whose answer does not go on."""
        if self.state is EXCHANGE and self._forwarder is not None:
            self._forwarder.late(begun=True)
