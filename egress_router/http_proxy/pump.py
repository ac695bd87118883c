"""Moves the bytes of one exchange between the client's socket and the origin's; `http1.exchange` says which.

Each direction reads again only when the bytes read before are written: a slow reader slows its writer down,
and at most the bytes of one receive are buffered for it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from egress_router.http_proxy.callbacks import callback
from egress_router.http_proxy.http1.ending import FINISHED
from egress_router.http_proxy.owner import Request

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.ending import End
    from egress_router.http_proxy.http1.exchange import Exchange
    from egress_router.http_proxy.upstream import Upstream
    from egress_router.relay.buffered_socket import BufferedSocket


class Pump(Request):
    """Moves bytes until the exchange is over; a subclass (`Forwarder`) says what follows."""

    __slots__ = ("_client", "_exchange", "_over", "_turns", "_upstream")

    # Set by the subclass. After `_turns` reads other connections run.
    _client: BufferedSocket
    _exchange: Exchange
    _over: bool
    _turns: int
    _upstream: Upstream

    @property
    def held(self) -> int:
        """How many bytes are buffered for the origin, or as an incomplete head of its answer."""
        return len(self._upstream.held) + len(self._upstream.out) + self._exchange.held

    @callback
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
        if not self._over:
            self._rest()

    @abstractmethod
    def abort(self, reason: str) -> None:
        """End both connections so that each peer sees that its message is incomplete."""

    @abstractmethod
    def fault(self, error: Exception) -> None:
        """End the client's connection, because of an unexpected error."""

    @abstractmethod
    def _rest(self) -> None:
        """Called when nothing more can be moved for now."""

    @abstractmethod
    def _moved(self) -> None:
        """Called when something has moved."""

    @abstractmethod
    def _hold_back(self, more: bool) -> None:  # noqa: FBT001
        """Called when a reader is slower than its writer, which has `more`."""

    @abstractmethod
    def _answer_begun(self) -> None:
        """Called when the final head of the answer has come."""

    @abstractmethod
    def _answer_unfinished(self) -> None:
        """Called when only a part of an answer head has come."""

    @abstractmethod
    def _ended(self, end: End) -> None:
        """Called when the exchange ends: without a complete answer, or with nothing of it left to send."""

    @abstractmethod
    def _finish(self) -> None:
        """Called when the client has the whole answer."""

    def _pump_request(self) -> None:
        client, upstream, exchange = self._client, self._upstream, self._exchange
        before = exchange.sent
        for _ in range(self._turns):
            if upstream.out and not upstream.flush():
                self._hold_back(client.readable)
                break
            if upstream.lost:
                exchange.origin_lost()  # the answer may have come all the same
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
        if end is not None and end is not FINISHED:  # FINISHED waits until the client has the whole answer
            self._ended(end)
        elif exchange.sent != before:
            self._moved()

    def _pump_answer(self) -> None:
        client, upstream = self._client, self._upstream
        end = self._exchange.end
        for _ in range(self._turns):
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
        """Forward what the origin sent; return the end of the exchange if it is over."""
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
                self._moved()
            else:
                self._answer_unfinished()
        return exchange.end
