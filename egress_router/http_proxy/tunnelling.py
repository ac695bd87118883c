"""The tunnel of a session: the bytes in between are the relay's, what is counted and written down is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.relay.tunnel import CloseReason

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from egress_router.http_proxy.ledger import Passage
    from egress_router.http_proxy.site import Site
    from egress_router.http_proxy.wire import Wire
    from egress_router.relay.tunnel import Closing, Tunnel


def open_tunnel(
    site: Site,
    passage: Passage,
    client: Wire,
    upstream: socket.socket,
    to_client: bytes,
    on_closed: Callable[[], None],
) -> Tunnel:
    """Relay between a client and an origin, after a CONNECT or an answer 101; `to_client` goes out first."""
    ledger = site.ledger
    status = 200 if passage.method == b"CONNECT" else 101

    def closed(closing: Closing) -> None:
        ledger.tunnels.value -= 1
        if closing.reason is CloseReason.IDLE:
            ledger.limit("idle_seconds")
        ledger.closed(passage, status, closing.sent, closing.received, closing.reason.value)
        on_closed()

    ledger.tunnels.value += 1
    early, client.held = client.held, b""
    return site.relay.start(
        client.sock, upstream, site.limits.idle_seconds, closed, to_upstream=early, to_client=to_client
    )
