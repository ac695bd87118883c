"""A request that is not CONNECT, over a connection to its origin; and what follows when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.http_proxy import replies
from egress_router.http_proxy.http1.ending import FINISHED, Ending
from egress_router.http_proxy.http1.state import INTO_EXCHANGE
from egress_router.http_proxy.pump import Pump
from egress_router.http_proxy.upstream import Upstream
from egress_router.relay.buffered_socket import nothing

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.ending import End
    from egress_router.http_proxy.http1.exchange import Exchange
    from egress_router.http_proxy.owner import Owner
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.relay.dial import Dialled


class Forwarder(Pump):
    """Made for each request; first it waits for a connection, from `reuse` or `connected`."""

    __slots__ = ("_info", "_owner", "_untaken")

    def __init__(self, owner: Owner, info: RequestInfo, exchange: Exchange) -> None:
        self._client = owner.stream
        self._exchange = exchange
        self._over = False
        self._turns = owner.worker.reads_in_turn
        self._owner = owner
        self._info = info
        self._untaken = 0  # bytes of an answer, when it was last held back

    def __repr__(self) -> str:
        exchange = self._exchange
        return (
            f"<Forwarder {self._info} at {self._info.address} status={exchange.status}"
            f" sent={exchange.sent} received={exchange.received}>"
        )

    # A connection

    def reuse(self) -> bool:
        """Use a kept connection, if there is one to an address that is allowed now; say whether there is."""
        info, owner = self._info, self._owner
        key = (info.client, info.target.authority, info.leaving)
        # An idle connection may end just now: only a request that may be sent twice uses it.
        upstream = owner.kept.take(key, info.decision.addresses, shared=self._exchange.repeatable)
        if upstream is None:
            return False
        info.address = upstream.address
        owner.worker.accounting.reused(info, upstream.sock)
        self._start(upstream)
        return True

    def connected(self, dialled: Dialled) -> None:
        """Use this new connection."""
        info, worker = self._info, self._owner.worker
        key = (info.client, info.target.authority, info.leaving)
        self._start(
            Upstream(worker.pool, key, dialled.sock, worker.poller, dialled.address, worker.max_received)
        )

    def _start(self, upstream: Upstream) -> None:
        """Send the request, with the part of its body that has come."""
        client, exchange, owner = self._client, self._exchange, self._owner
        owner.state = INTO_EXCHANGE[owner.state]
        owner.timeouts.await_answer()
        self._upstream = upstream
        self._over = False
        if owner.worker.draining:
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
        elif upstream.out or owner.holds:
            owner.account()

    # While bytes move

    def _rest(self) -> None:
        if self._owner.holds:
            self._owner.account()

    def _moved(self) -> None:
        """Restart the timeout; not called for interim answers, which could come for ever."""
        if self._exchange.answering:
            self._owner.timeouts.await_more()
        else:
            self._owner.timeouts.await_answer()

    def _hold_back(self, more: bool) -> None:  # noqa: FBT001
        self._owner.account()
        exchange = self._exchange
        # Of an answer that has come in full, only what the client takes moves.
        untaken = len(self._client.out) if exchange.answering or exchange.end is not None else 0
        if untaken != self._untaken:
            self._untaken = untaken
            self._owner.timeouts.await_more()
        if more:
            self._owner.worker.accounting.limit("buffer_bytes")

    def _answer_begun(self) -> None:
        upstream, exchange, worker = self._upstream, self._exchange, self._owner.worker
        upstream.reused = True
        upstream.persistent = exchange.origin_persists
        if exchange.binds_origin:
            upstream.bound = True
        worker.accounting.answered(self._info)

    def _answer_unfinished(self) -> None:
        self._owner.account()

    # Called by the client's connection

    def last(self) -> None:
        """Let the client's connection end after this answer, unless the answer has begun."""
        self._exchange.last()

    def late(self, *, begun: bool) -> None:
        """Give up an answer that does not begin, or has `begun` but does not continue."""
        exchange, limit = self._exchange, self._owner.worker.accounting.limit
        end = exchange.end
        if end is not None:
            if begun and self._untaken and self._client.out:  # else the time is that of a request before
                limit("idle_seconds")
                self.abort("late")
        elif exchange.late(begun=begun) and exchange.end is not None:
            limit("idle_seconds" if begun else "answer_seconds")
            if exchange.end is FINISHED and self._client.out:
                self._hold_back(more=False)  # the client still has its time to take the answer
            else:
                self._ended(exchange.end)

    def give_way(self) -> None:
        """End, because all connections together buffer too much."""
        if self._exchange.status:
            self.abort(replies.TOO_MUCH_HELD.reason)
        else:
            self._refuse(replies.TOO_MUCH_HELD, replies.TOO_MUCH_HELD.reason)

    def close_now(self) -> None:
        """End, because the client's connection has to end."""
        self.abort("closed")

    def fault(self, error: Exception) -> None:
        """End the client's connection, because of an unexpected error."""
        self._owner.fault(error)

    def abort(self, reason: str) -> None:
        """End both connections so that each peer sees that its message is incomplete."""
        self._close(self._exchange.status, reason)
        self._upstream.abort()
        self._owner.abort()

    # The end

    def _ended(self, end: End) -> None:
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
        self._owner.next_request(
            persists=exchange.persists and complete, was_last=exchange.was_last and complete
        )

    def _refuse(self, reply: replies.Reply, reason: str) -> None:
        """Answer a wrong request; the origin must not take the part that it got for the whole request."""
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
        accounting.metrics.sent.value += exchange.sent
        accounting.metrics.received.value += exchange.received
        accounting.closed(self._info, status, exchange.sent, exchange.received, reason)
