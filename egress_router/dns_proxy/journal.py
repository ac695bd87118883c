"""What is counted and said about connections, names and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.grammar.address import printed
from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.metrics import Number, Registry
    from egress_router.relay.tunnel import Closing
    from egress_router.upstreams.destination import Destination
    from egress_router.upstreams.places import Place
    from egress_router.upstreams.pool import Target

CONNECTED = "connected"
NO_ADDRESS = "no_address"
LIMIT = "limit"
CLOSED = "closed"

_TOTAL = "Client connections by what became of them; all but `connected` were closed at once."
_UP = "1 where every worker sees this address answer."


class Journal:
    """Metrics always, lines on stdout where the settings ask for them."""

    def __init__(self, registry: Registry, *, access_log: bool, debug: bool) -> None:
        self._registry = registry
        self._results: dict[str, Number] = {}
        self._debug = debug
        self._closings = access_log or debug
        self._records = log.records()
        # With the debug setting these lines belong to stdout, otherwise they are events like others.
        self._changes = self._records if debug else log.get("dns_proxy")
        self._connect_seconds = registry.histogram(
            "connect_seconds", "Time until an upstream connection was there, in seconds.", LATENCY_BUCKETS
        )
        self._connection_seconds = registry.histogram(
            "connection_seconds", "Lifetime of client connections that were relayed.", DURATION_BUCKETS
        )
        self.open = registry.gauge("connections_open", "Client connections that are open.")
        meaning = "Bytes relayed: sent to upstreams, received from them."
        self.sent = registry.counter("bytes_total", meaning, direction="sent")
        self.received = registry.counter("bytes_total", meaning, direction="received")

    def decided(self, result: str) -> None:
        """Count what became of a client connection: `CONNECTED`, or why it was not relayed."""
        number = self._results.get(result)
        if number is None:
            number = self._results[result] = self._registry.counter(
                "connections_total", _TOTAL, result=result
            )
        number.value += 1

    def connected(self, client: str, port: int, destination: str, target: Target, seconds: float) -> None:
        """An upstream answered after `seconds`."""
        self.decided(CONNECTED)
        self._connect_seconds.observe(seconds)
        if self._debug:
            self._records.info(
                "connected",
                client=client,
                port=port,
                destination=destination,
                address=printed(*target),
                connect_seconds=round(seconds, 4),
            )

    def refused(self, client: str, port: int, destination: str | None, result: str) -> None:
        """A client was closed without ever having been connected."""
        self.decided(result)
        if self._closings:
            self._records.info("connection", client=client, port=port, destination=destination, result=result)

    def closed(self, client: str, port: int, destination: str, target: Target, closing: Closing) -> None:
        """A relayed connection ended."""
        self._connection_seconds.observe(closing.seconds)
        if self._closings:
            self._records.info(
                "connection",
                client=client,
                port=port,
                destination=destination,
                address=printed(*target),
                result=closing.reason.value,
                sent=closing.sent,
                received=closing.received,
                seconds=round(closing.seconds, 3),
            )

    def resolved(self, destination: Destination) -> None:
        """The addresses of a name changed, or it began to fail."""
        addresses = ", ".join(str(address) for address, _ in destination.targets)
        if destination.failure is None:
            self._changes.info("name resolved", name=destination.host, addresses=addresses)
        else:
            self._changes.warning(
                "name does not resolve",
                name=destination.host,
                reason=destination.failure,
                serving=addresses or "nothing",
            )

    def left_out(self, destination: Destination, place: Place) -> None:
        """A destination has an address that nobody is connected to."""
        self._changes.warning(
            "an address of the destination is left out", destination=destination.text, reason=place.reason
        )

    def health(self, target: Target, *, up: bool) -> None:
        """An address began or ceased to answer."""
        if up:
            self._changes.info("upstream answers again", address=printed(*target))
        else:
            self._changes.warning("upstream does not answer", address=printed(*target))

    def upstreams(self, states: Iterable[tuple[str, Target, bool]]) -> None:
        """Show these destinations and targets, and whether each is up, and no others."""
        self._registry.forget("upstream_up")
        for destination, target, up in states:
            gauge = self._registry.flag("upstream_up", _UP, destination=destination, address=printed(*target))
            gauge.value = int(up)
