"""What is left of a session once it relays: the bytes in between are the relay's, what they count is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.http_proxy.guard import guarded
from egress_router.relay.tunnel import CloseReason

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.ledger import Passage
    from egress_router.http_proxy.site import Site
    from egress_router.relay.tunnel import Closing


class OpenTunnel:
    """The connection of a client to an origin, after a CONNECT or an answer 101.

    Many stay open for days without a byte, so it takes the place of its session, which is much larger.
    """

    __slots__ = ("_passage", "_site", "_tunnel")

    def __init__(
        self,
        site: Site,
        passage: Passage,
        client: socket.socket,
        upstream: socket.socket,
        *,
        to_upstream: bytes,
        to_client: bytes,
    ) -> None:
        """Begin to relay; `to_upstream` and `to_client` go out first."""
        self._site = site
        self._passage = passage
        self._tunnel = site.relay.start(
            client,
            upstream,
            site.limits.idle_seconds,
            self._closed,
            to_upstream=to_upstream,
            to_client=to_client,
        )
        site.ledger.tunnels.value += 1
        site.connections.add(self)

    @property
    def client(self) -> str:
        """The client's address."""
        return self._passage.client

    def is_denied(self) -> bool:
        """Say whether the tunnel would be denied by the rules of now."""
        return self._site.denies(self._passage)

    @guarded
    def end_if_denied(self) -> None:
        """Close what the rules of now would not allow."""
        if self.is_denied():
            self.close_now()

    def drain(self) -> None:
        """Go on: a tunnel ends when its client or its origin wants it to."""

    def close_now(self) -> None:
        """Close both sides; each sees that its stream is cut short."""
        self._tunnel.close()

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""
        self._site.fault(error)
        self.close_now()

    def _closed(self, closing: Closing) -> None:
        site, passage = self._site, self._passage
        site.left(self)
        site.ledger.tunnels.value -= 1
        if closing.reason is CloseReason.IDLE:
            site.ledger.idle_end("idle_seconds")
        status = 200 if passage.method == b"CONNECT" else 101
        site.ledger.closed(passage, status, closing.sent, closing.received, closing.reason.value)
