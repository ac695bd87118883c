"""What is counted and logged of client connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM
from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS
from egress_router.records import DENIED, Ids, RecordLog
from egress_router.service.latest_denied import LatestDenied
from egress_router.service.rule_metrics import RuleMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.metrics import Number, Registry
    from egress_router.records import Record
    from egress_router.relay.news import Sums
    from egress_router.relay.tunnel import Closing

CONNECTED = "connected"
NO_ADDRESS = "no_address"
OTHER_FAMILY = "other_family"  # than the source address of the line
LIMIT = "limit"
CLOSED = "closed"

_TOTAL = "Client connections by what became of them; all but `connected` were closed at once."


class AccessLog:
    """Counts always; writes lines to stdout if the settings ask for them."""

    def __init__(self, registry: Registry, *, access_log: bool, debug: bool, tells_debug: bool) -> None:
        self._registry = registry
        self._results: dict[str, Number] = {}
        self._debug = debug
        self.ids = Ids()
        self.denied = LatestDenied(SYSTEM)
        self._rules = RuleMetrics(registry)
        self._records = RecordLog(everything=access_log or debug)
        self.tells_each = self._records.everything or tells_debug  # otherwise the data plane reports sums
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

    def decided(self, result: str, count: int = 1) -> None:
        """Count results of client connections: `CONNECTED`, or why they were not relayed."""
        number = self._results.get(result)
        if number is None:
            number = self._results[result] = self._registry.counter(
                "connections_total", _TOTAL, result=result
            )
        number.value += count

    def summed(self, rule: str, sums: Sums) -> None:
        """Count connections that were connected or ended, for which no record is written."""
        counts, seconds = sums.connects
        numbers = self._rules.of(rule)
        if connected := sum(counts):
            self.decided(CONNECTED, connected)
            numbers.connections.value += connected
            numbers.connect_seconds.add(counts, seconds)
            self._connect_seconds.add(counts, seconds)
        self._connection_seconds.add(*sums.lives)
        numbers.first_byte.add(*sums.first_bytes)
        numbers.sent.value += sums.sent
        numbers.received.value += sums.received

    def refused_many(self, rule: str, result: str, count: int) -> None:
        """Count clients that were closed without a connection to an upstream; no record is written."""
        self.decided(result, count)
        if result != LIMIT:
            numbers = self._rules.of(rule)
            numbers.connections.value += count
            numbers.failures.value += count

    def connected(self, rule: str, make_record: Callable[[], Record], seconds: float) -> None:
        """Count that an upstream answered after `seconds`; `make_record` is called if a record is written."""
        self.decided(CONNECTED)
        self._connect_seconds.observe(seconds)
        numbers = self._rules.of(rule)
        numbers.connections.value += 1
        numbers.connect_seconds.observe(seconds)
        if self._debug:
            record = make_record()
            record.event = "connected"
            record.connect_seconds = round(seconds, 6)
            self._records.write(record)

    def refused(
        self, rule: str, make_record: Callable[[], Record], result: str, denied_by: str | None, seconds: float
    ) -> None:
        """Count a client that was closed without a connection; `denied_by` names what denied it."""
        self.refused_many(rule, result, 1)
        if denied_by is not None or self._records.everything:
            record = make_record()
            record.reason, record.seconds = result, round(seconds, 6)
            if denied_by is not None:
                record.verdict, record.rule = DENIED, denied_by
                target = f"{record.name or record.address}:{record.port}"
                self.denied.note(record.client, target, denied_by, result)
            self._records.write(record)

    def closed(
        self, rule: str, make_record: Callable[[], Record], closing: Closing, connect_seconds: float | None
    ) -> None:
        """Count the end of a relayed connection, which had taken `connect_seconds` to connect."""
        self._connection_seconds.observe(closing.seconds)
        numbers = self._rules.of(rule)
        numbers.sent.value += closing.sent
        numbers.received.value += closing.received
        if closing.first_byte is not None:
            numbers.first_byte.observe(closing.first_byte)
        if self._records.everything:
            record = make_record()
            record.reason = closing.reason.value
            record.sent, record.received = closing.sent, closing.received
            record.seconds = round(closing.seconds, 6)
            record.connect_seconds = None if connect_seconds is None else round(connect_seconds, 6)
            self._records.write(record)
