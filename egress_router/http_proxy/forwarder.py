"""Moves the bytes of one exchange between the client's socket and the origin's; `http1.exchange` says which.

Each direction reads only while what it read before is written: a slow reader holds its writer back, and at
most one receive is held for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egress_router.http_proxy import replies
from egress_router.http_proxy.guard import guarded
from egress_router.http_proxy.http1.exchange import FINISHED, Ending
from egress_router.relay.buffered_socket import TURNS, nothing

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.exchange import End, Exchange
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.http_proxy.timeouts import Timeouts
    from egress_router.http_proxy.upstream import ClientUpstreams, Upstream
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket


class Owner(Protocol):
    """The client's connection, as an exchange sees it."""

    worker: WorkerState
    wire: BufferedSocket
    kept: ClientUpstreams
    timeouts: Timeouts
    holds: bool

    def account(self) -> None:
        """Note how many bytes are held."""

    def dial_again(self) -> None:
        """Repeat the exchange over a new connection."""

    def next_request(self, *, persists: bool, complete: bool) -> None:
        """Go on after an exchange."""

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel."""

    def answer_and_close(self, reply: replies.Reply) -> None:
        """Send an answer of the proxy's own and close."""

    def abort(self) -> None:
        """Close so that the client sees that its answer is cut short."""

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""


class Forwarder:
    """Made for each request that is not CONNECT; `start` begins it when there is a connection.

    `repeatable` says whether the request may be sent over an idle connection, which may end just then.
    """

    __slots__ = ("_client", "_exchange", "_info", "_over", "_owner", "_upstream", "repeatable")

    def __init__(self, owner: Owner, info: RequestInfo, exchange: Exchange) -> None:
        self._owner = owner
        self._client = owner.wire
        self._info = info
        self._exchange = exchange
        self.repeatable = exchange.repeatable
        self._over = False
        self._upstream: Upstream

    @property
    def held(self) -> int:
        """How many bytes wait on the origin's side, for the origin or for the rest of an answer's head."""
        return len(self._upstream.held) + len(self._upstream.out) + self._exchange.held

    def start(self, upstream: Upstream) -> None:
        """Send the request over this connection, with as much of its body as is here."""
        client, exchange = self._client, self._exchange
        self._upstream = upstream
        self._over = False
        if self._owner.worker.draining:
            exchange.last()
        first = exchange.begin(client.held, reused=upstream.reused)
        client.held = exchange.unread
        if exchange.end is not None:
            self._ended(exchange.end)
            return
        upstream.on_ready = client.on_ready = self.pump
        upstream.send(first)
        upstream.watch()
        client.watch()
        if not exchange.request_done:
            self.pump()
        elif upstream.out or self._owner.holds:
            self._owner.account()

    @guarded
    def pump(self) -> None:
        """Move what can be moved now."""
        client, upstream = self._client, self._upstream
        if client.gone or client.lost:
            self.abort("client_gone")
            return
        if (not self._exchange.request_done or upstream.out) and not upstream.lost:
            self._pump_request()
        if not self._over:
            self._pump_answer()
        if self._owner.holds and not self._over:
            self._owner.account()

    def last(self) -> None:
        """Let the client's connection end with this answer, where that has not begun."""
        self._exchange.last()

    def late(self, *, begun: bool) -> None:
        """Give up an answer that does not begin, or has `begun` and does not go on."""
        exchange = self._exchange
        if exchange.late(begun=begun) and exchange.end is not None:
            self._owner.worker.accounting.limit("idle_seconds" if begun else "answer_seconds")
            self._ended(exchange.end)

    def give_way(self) -> None:
        """End, because all connections together hold too much."""
        if self._exchange.status:
            self.abort(replies.TOO_MUCH_HELD.reason)
        else:
            self._refuse(replies.TOO_MUCH_HELD, replies.TOO_MUCH_HELD.reason)

    def fault(self, error: Exception) -> None:
        """End the client's connection, because of something that must not happen."""
        self._owner.fault(error)

    def abort(self, reason: str) -> None:
        """End both connections so that each peer sees that its message was cut short."""
        self._close(self._exchange.status, reason)
        self._upstream.abort()
        self._owner.abort()

    def _pump_request(self) -> None:
        client, upstream, exchange = self._client, self._upstream, self._exchange
        before = exchange.sent
        for _ in range(TURNS):
            if upstream.out and not upstream.flush():
                self._hold_back(client.readable)
                break
            if upstream.lost:
                exchange.origin_lost()  # the answer may be here all the same
                break
            if exchange.request_done:
                break
            data = client.receive()
            if data is None:
                break
            if data:
                passed = exchange.from_client(data)
                client.held = exchange.unread
                if passed:
                    upstream.send(passed)
            else:
                exchange.client_ended()
            if exchange.end is not None:
                break
        else:
            client.again()
        end = exchange.end
        if end is not None and end is not FINISHED:  # that one waits until the client has its answer
            self._ended(end)
        elif exchange.sent != before:
            self._touch()

    def _pump_answer(self) -> None:
        client, upstream = self._client, self._upstream
        end = self._exchange.end
        for _ in range(TURNS):
            if client.out and not client.flush():
                self._hold_back(upstream.readable)
                return
            if client.lost:
                self.abort("client_gone")
                return
            if end is not None:
                self._finish()
                return
            data = upstream.receive()
            if data is None:
                return
            end = self._came(data)
            if end is not None and end is not FINISHED:
                self._ended(end)
                return
        upstream.again()

    def _came(self, data: bytes) -> End | None:
        """Pass on what the origin sent; return the end of the exchange, where it is over."""
        exchange = self._exchange
        if not data:
            exchange.origin_ended(lost=self._upstream.lost)
            return exchange.end
        begun = exchange.status
        passed = exchange.from_origin(data)
        if exchange.rest:
            self._upstream.held, exchange.rest = exchange.rest, b""
        if exchange.status != begun:
            self._answer_begun()
        if passed:
            self._client.send(passed)
        if exchange.end is None:
            if exchange.status:
                self._touch()
            else:
                self._owner.account()  # for a part of a head
        return exchange.end

    def _answer_begun(self) -> None:
        upstream, exchange, worker = self._upstream, self._exchange, self._owner.worker
        upstream.reused = True
        upstream.persistent = exchange.origin_persists
        if exchange.binds_origin:
            upstream.bound = True
        worker.accounting.answered(self._info)

    def _touch(self) -> None:
        """Note that something moves, but for interim answers: they could put the real one off for ever."""
        if self._exchange.answering:
            self._owner.timeouts.await_more()
        else:
            self._owner.timeouts.await_answer()

    def _hold_back(self, more: bool) -> None:  # noqa: FBT001
        """Count a reader that is slower than its writer."""
        self._owner.account()
        if more:
            self._owner.worker.accounting.limit("buffer_bytes")

    # The end

    def _ended(self, end: End) -> None:
        """End otherwise than by a complete answer, or by that, where nothing is left to be sent."""
        match end.ending:
            case Ending.FINISHED:
                self._finish()
            case Ending.REPEATED:
                self._over = True
                self._upstream.close()
                self._owner.dial_again()
            case Ending.SWITCHED:
                self._over = True
                self._upstream.on_ready = self._client.on_ready = nothing
                self._owner.open_tunnel(self._info, self._upstream.sock, self._client.out)
            case Ending.CUT:
                if end.reason == "bad_request" and end.error is not None:
                    self._owner.worker.accounting.count_refusal(replies.refused(end.error).reason)
                self.abort(end.reason)
            case Ending.REFUSED if end.error is not None:
                self._refuse(replies.refused(end.error), end.reason)
            case _:
                self._fail(end)

    def _finish(self) -> None:
        upstream, exchange = self._upstream, self._exchange
        complete = exchange.request_done
        self._close(exchange.status, "finished")
        clean = not (exchange.surplus or upstream.lost or upstream.out) and upstream.receive() is None
        if clean and complete and upstream.persistent:
            self._owner.kept.put(upstream)
        else:
            upstream.close()
        self._owner.next_request(persists=exchange.persists and complete, complete=complete)

    def _refuse(self, reply: replies.Reply, reason: str) -> None:
        """Answer what is no fault of the origin's; it must not take what it got for the whole request."""
        self._owner.worker.accounting.count_refusal(reply.reason)
        self._answer_instead(reply, reason)

    def _fail(self, end: End) -> None:
        """Answer instead of the origin."""
        accounting = self._owner.worker.accounting
        if end.error is not None:
            accounting.met_limit(end.error)
            reply = replies.bad_answer(end.error)
        else:
            reply = replies.NO_ANSWER if end.ending is Ending.TOO_LATE else replies.NO_WHOLE_ANSWER
        accounting.failed(self._info, reply)
        self._answer_instead(reply, reply.reason)

    def _answer_instead(self, reply: replies.Reply, reason: str) -> None:
        self._close(reply.status, reason)
        self._upstream.abort()
        self._owner.answer_and_close(reply)

    def _close(self, status: int, reason: str) -> None:
        self._over = True
        accounting, exchange = self._owner.worker.accounting, self._exchange
        accounting.sent.value += exchange.sent
        accounting.received.value += exchange.received
        accounting.closed(self._info, status, exchange.sent, exchange.received, reason)
