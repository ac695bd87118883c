"""What all connections of one worker share."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Protocol

from egress_router.http_proxy.held_bytes import HeldBytes
from egress_router.relay.buffered_socket import MAX_RECEIVED, TURNS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.access_control import AccessControl
    from egress_router.http_proxy.accounting import Accounting
    from egress_router.http_proxy.client_watch import ClientWatch
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.known_connects import KnownConnects
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.http_proxy.upstream import UpstreamPool
    from egress_router.relay.dataplane import DataPlane, Pair
    from egress_router.relay.deadlines import Deadlines
    from egress_router.relay.poller import Poller
    from egress_router.relay.tunnel import Relay
    from egress_router.settings.http_proxy import HttpLimits, SniMode

HELLO_SECONDS: Final = 0.25


class Judged(Protocol):
    """What the present rules may deny: a connection, or all that the data plane serves to one destination."""

    def is_denied(self) -> bool:
        """Say whether the present rules would deny it."""

    def end_if_denied(self) -> None:
        """Close if the present rules do not allow it."""


class Connection(Judged, Protocol):
    """A client's connection: a ClientConnection or TlsConnection, or the ProxyTunnel that it has become."""

    @property
    def who(self) -> Who:
        """Whose connection it is."""

    @property
    def admission(self) -> Pair:
        """The client's entry among the open connections that the data plane counts."""

    @property
    def target(self) -> RequestTarget | None:
        """Where it leads to; None if nothing is under way."""

    def drain(self) -> None:
        """Close if nothing is under way, and begin no new request."""

    def close_now(self) -> None:
        """Close whatever is under way."""


def _turns() -> Iterator[int]:
    # Workers should not all begin with the same source address.
    return itertools.count(random.randrange(1 << 16))  # noqa: S311 - only spreads


@dataclass(slots=True)
class WorkerState:
    """The tools and the limits of all connections; `draining`: no new connections are accepted any more.

    After `reads_in_turn` reads of one socket others have their turn. `max_received` is how many bytes one
    read takes, and so how many may be buffered for a slow reader. A client in a tunnel has `hello_seconds`
    for its first byte, on ports where the server may speak first. `sources` are the router's addresses;
    `turns` says which of them is the next if a rule spreads.
    """

    loop: asyncio.AbstractEventLoop
    poller: Poller
    plane: DataPlane
    deadlines: Deadlines
    relay: Relay
    access: AccessControl
    accounting: Accounting
    known: KnownConnects
    limits: HttpLimits
    pool: UpstreamPool
    client_watch: ClientWatch
    clock: Clock
    sni: SniMode
    sources: tuple[IPAddress, ...]
    connections: set[Connection] = field(default_factory=set)
    draining: bool = False
    reads_in_turn: int = TURNS
    hello_seconds: float = HELLO_SECONDS
    max_received: int = field(init=False)
    held: HeldBytes = field(init=False)
    turns: Iterator[int] = field(default_factory=_turns)
    _date: bytes = b""
    _date_second: int = -1

    def __post_init__(self) -> None:
        self.held = HeldBytes(self.limits.held_bytes, self.poller.soon)
        self.max_received = min(MAX_RECEIVED, self.limits.buffer_bytes)

    @property
    def enforces_sni(self) -> bool:
        """Whether a tunnel must name the host of its CONNECT."""
        return self.sni == "enforce"

    def date(self) -> bytes:
        """Return the present time as the value of a Date field."""
        now = int(self.clock.time())
        if now != self._date_second:
            self._date_second = now
            self._date = formatdate(now, usegmt=True).encode("ascii")
        return self._date

    def fault(self, error: Exception) -> None:
        """Count and report a bug of the proxy, because of which a connection is closed."""
        self.accounting.fault()
        context = {"message": "a connection failed, and was closed", "exception": error}
        self.loop.call_exception_handler(context)

    def denies(self, info: RequestInfo) -> bool:
        """Say whether the present rules would deny the connection of a request."""
        address = info.address
        return address is not None and not self.access.still_allows(
            info.target, address, info.decision.full_name
        )

    def left(self, connection: Connection, reason: str) -> None:
        """Forget a connection that has closed."""
        self.accounting.left_by(connection.who, reason)
        self.connections.discard(connection)
        self.plane.cut(connection.admission)
